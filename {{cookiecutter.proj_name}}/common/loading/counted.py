"""Batches whose sizes are known only once they are read, such as their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from common.data.batches import TrainingBatches
from common.data.loader import find_sizes_at
from common.run.distributed import gather, gather_data


class CountedBatches(TrainingBatches):
    """Weights each batch by its share of what ``size_of(batch)`` of the loader counts in an accumulation window.

    The batches of a window are read at once, before the transforms of whole batches; the ranks exchange their sizes.
    """

    def __init__(self, loader: Any, *options: Any):
        super().__init__(loader, *options)
        self._repeats_at = find_sizes_at(loader)
        self._sizes: dict[int, tuple[int, int]] = {}  # of each batch on this rank and on all, by its place
        self._sizes_at = self._sizes.__getitem__
        if self.foreign is not None:
            self.foreign = _Held(self.foreign)

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on; those before it in its window are read again."""
        if self._endless is not None:
            return super().open(epoch, iteration, total)
        skipped = iteration % self._accumulate
        self._at = iteration - skipped
        self._place = total - skipped if self._is_endless else self._at
        batches = super().open(epoch, iteration - skipped, total - skipped)
        next(islice(batches, skipped, skipped), None)
        return batches

    def _on_device(self, batches: Iterable[dict]) -> Iterator[dict]:
        return super()._on_device(self._count(iter(batches)))

    def _count(self, batches: Iterator[dict]) -> Iterator[dict]:
        while True:
            if self.foreign is not None:
                self.foreign.hold()
            stop = min(self._at + self._accumulate, self.per_epoch)
            window = list(islice(batches, stop - self._at))
            sizes = [self._size_of(batch, self._place + i) for i, batch in enumerate(window)]
            totals = map(sum, zip(*gather_data(sizes), strict=True))
            for place in [place for place in self._sizes if place < self._place - self._accumulate]:
                del self._sizes[place]
            self._sizes |= {self._place + i: both for i, both in enumerate(zip(sizes, totals, strict=True))}
            self._at, self._place = stop % self.per_epoch, self._place + len(window)
            for i, batch in enumerate(window):
                if self.foreign is not None and i + 1 == len(window):
                    self.foreign.release()
                yield batch
            if not window:
                return

    def _size_of(self, batch: dict, place: int) -> int:
        repeats = self._repeats_at is not None and self._repeats_at(place)[0] == 0  # the samples of other ranks
        return 0 if repeats else self.loader.size_of(batch)


class _Held:
    """The state of the passes over a loader at the beginning of a window, until all its batches are given out."""

    def __init__(self, passes: Any):
        self._passes, self._state = passes, None
        self.open, self.load_state_dict = passes.open, passes.load_state_dict

    def hold(self) -> None:
        self._state = self._passes.own_state()

    def release(self) -> None:
        self._state = None

    def state_dict(self) -> dict[int, Any]:
        return dict(enumerate(gather(self._passes.own_state() if self._state is None else self._state)))
