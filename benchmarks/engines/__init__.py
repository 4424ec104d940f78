"""One file an engine: ``train(work, folder)`` trains a workload and returns the model."""
