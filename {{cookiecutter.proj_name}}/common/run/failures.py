"""Failures that are no fault of the code, named plainly, with what to change."""

from __future__ import annotations

import traceback

import torch

from common.config.errors import RunError, one_line

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


def explain(error: BaseException, doing: str, batch_size_key: str) -> BaseException:
    """Return a RunError that names a failure of the machine or of the data; any other error as it is.

    ``doing`` is what the run was at, such as ``epoch 3 iteration 17``; ``batch_size_key`` lowers the memory used there.
    """
    text, short, frames = str(error), one_line(error), traceback.extract_tb(error.__traceback__)
    if "RunError: " in text and "Original Traceback" in text:  # from a loader's worker, which wraps it
        return RunError(f"{doing}: {text.rsplit('RunError: ', 1)[1].strip()}")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _NO_MEMORY):
        way_out = f"lower {batch_size_key}, for the same steps with a higher trainer.accumulate"
        return RunError(f"{doing}: out of memory ({short}); {way_out}, or set trainer.precision to bf16")
    if isinstance(error, IndexError) and "Target " in text and "out of bounds" in text:
        key = batch_size_key.removesuffix(".batch_size")
        return RunError(f"{doing}: a label in a batch of {key} is none of the model's classes ({short})")
    # What a worker's end looks like depends on what it was at: torch sees it, or the line to it breaks.
    broken = isinstance(error, (ConnectionError, EOFError)) and any("multiprocessing" in f.filename for f in frames)
    if broken or (isinstance(error, RuntimeError) and "DataLoader worker" in text):
        cause = "most often because memory ran out: lower worker, or set it to 0 to see what happens"
        return RunError(f"{doing}: a process that loads data died ({short}); {cause}")
    return error
