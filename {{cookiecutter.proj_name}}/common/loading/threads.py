"""Batches that threads of the trainer's process read: no copies between processes, and nothing to start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data._utils.pin_memory import pin_memory

from common.config.errors import UserError
from common.data.dataset import generators_of
from common.data.loader import Loader

_AHEAD = 2  # batches that each thread is ahead of the training, as with processes


def refuse_drawing(where: str, *parts: Any) -> None:
    """Raise a UserError for a data set or transforms that draw from the generators that the training uses, too."""
    for part in filter(None, parts):
        if drawn := generators_of(part):
            ways = "declare random_generators = () if it draws nothing, or use batch_transforms, or loader process"
            found = f"{type(part).__name__} draws from the generators {', '.join(drawn)}"
            raise UserError(f"{where}: thread: {found}, which threads share with the training; {ways}")


def read_ahead(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """Yield what a thread reads, ``count`` batches ahead."""
    with _pool(1) as pool:
        upcoming = deque(pool.submit(next, batches, None) for _ in range(count))
        while (batch := upcoming.popleft().result()) is not None:
            upcoming.append(pool.submit(next, batches, None))
            yield batch


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads, which end with the batch that they are at."""
    pool = ThreadPoolExecutor(threads, "loader")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class ThreadLoader(Loader):
    """A loader whose ``threads`` read batches ahead, for data sets that spend their time outside of Python's lock.

    Such are files, decoders of pictures, NumPy and torch. The batches are those that any number of processes reads.

    Raises:
        UserError: The data set or its transforms draw from the generators of the process, which the training uses too.
    """

    def __init__(self, dataset: Any, threads: int, **options: Any):
        refuse_drawing("loader", dataset.dataset)
        super().__init__(dataset, **options)
        self._threads = threads

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches in order."""
        waiting = iter(self.batch_sampler)
        with _pool(self._threads) as pool:
            upcoming = deque(pool.submit(self._read, batch) for batch in islice(waiting, _AHEAD * self._threads))
            while upcoming:
                done = upcoming.popleft()
                upcoming.extend(pool.submit(self._read, batch) for batch in islice(waiting, 1))
                yield done.result()

    def _read(self, indices: Any) -> Any:
        batch = self.collate_fn(self.dataset.__getitems__(indices))
        return pin_memory(batch) if self.pin_memory else batch
