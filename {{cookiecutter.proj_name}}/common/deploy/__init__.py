"""Room: a checkpoint in use. Predictions from Python, on files and over HTTP, and exports for other programs."""
