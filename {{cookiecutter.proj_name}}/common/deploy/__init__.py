"""Room: a checkpoint in use. Predictions from Python and on files."""
