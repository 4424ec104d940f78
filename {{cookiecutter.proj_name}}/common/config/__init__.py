"""Configs: every key with its meaning, files and flags, names and the classes they mean."""

from common.config.load import dump_config, load_config

__all__ = ["dump_config", "load_config"]
