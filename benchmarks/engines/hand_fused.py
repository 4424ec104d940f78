"""The usual loop by hand, with the fused Adam."""

from engines import hand


def train(work, folder):
    """Train by the fused Adam."""
    return hand.train(work, folder, fused=True)
