"""Small commands around a project: ``python -m common.tools.<name> --help``."""
