"""Other ways to load: streams, threads, padded sequences, loaders of your own."""
