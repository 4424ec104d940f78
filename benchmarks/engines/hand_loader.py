"""The usual loop by hand, from torch's loader with its default collation."""

from torch.utils.data import DataLoader, Dataset

from engines import hand


class InMemory(Dataset):
    """Rows of tensors, as dicts."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples["y"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.samples.items()}


def train(work, folder):
    """Train over the shuffled set, pass after pass."""
    loader = DataLoader(InMemory(work.samples(200)), work.batch, shuffle=True)
    return hand.train(work, folder, batches=work.timed(batch for _ in range(work.steps) for batch in loader))
