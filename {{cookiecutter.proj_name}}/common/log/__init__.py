"""What a run says: console and file, curves, averages, metrics, the progress bar."""
