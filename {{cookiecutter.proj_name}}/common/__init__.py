"""The engine: one folder you own and can read in an afternoon. It never imports your package."""
