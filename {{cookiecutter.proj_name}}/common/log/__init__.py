"""What a run reports: console and file, curves, averages, metrics, the progress bar."""

from typing import Any

named_tensors: dict[str, Any] = {}  # of this iteration; a layer registers them by the room diagnose
