"""This template's engine, from its own loader over a set in memory."""

from common.datasets import ArrayDataset, make_loader
from engines import ours


def train(work, folder):
    """Train over the shuffled set, pass after pass."""
    return ours.train(
        work, folder, loader=make_loader(ArrayDataset("data", **work.samples(200)), work.batch, training=True)
    )
