"""Room: losses and metrics beyond the base classes."""
