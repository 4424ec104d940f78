"""Room: looking for a fault, and for where the time goes."""
