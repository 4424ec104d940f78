"""What a run reports: console and file, curves, averages, metrics, the progress bar."""
