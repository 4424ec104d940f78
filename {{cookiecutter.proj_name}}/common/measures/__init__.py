"""Room: losses and metrics beyond torch's own."""
