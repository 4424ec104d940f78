"""Processes: how they start and end, signals, devices, random numbers, and how ranks talk to each other."""
