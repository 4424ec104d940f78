"""The settings that decide what is computed: a run may only be resumed with the same ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from common.config.errors import UserError
from common.config.schema import Config
from common.config.secrets import redact
from common.log.console import add_log
from common.run.distributed import get_data_size

_STEPS = ("mode", "accumulate", "precision", "compile", "channels_last", "seed", "deterministic")
_IN_STATE = ("model", "optim")  # other parts of a checkpoint depend on these settings ...
_NOT_IN_STATE = ("clip_", "ema_decay")  # ... except for these
_LOADING = ("worker", "persistent_workers", "batch_size")


class ResumeCheck:
    """The deciding settings of a run, as a part of its checkpoints that refuses to be loaded into other ones."""

    def __init__(self, config: Config):
        self._allow_changed = config.checkpoint.allow_changed
        train = config.dataset.train or {}
        settings = {
            "model": config.model,
            "optim": asdict(config.optim),
            "loss": config.loss,
            "dataset.train": {key: value for key, value in train.items() if key not in _LOADING},
            "batch_size times processes": train.get("batch_size", config.batch_size) * get_data_size(),
            "progress.iters_per_epoch": config.progress.iters_per_epoch,
            "trainer": {name: getattr(config.trainer, name) for name in _STEPS},
        }
        self._settings = _flatten(redact(settings))

    def state_dict(self) -> dict[str, str]:
        """Return the settings by their dotted names, as JSON and without secrets."""
        return self._settings

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raise a UserError if the settings are others, so that the run would not continue as without the cut."""
        new = self._settings
        keys = [key for key in {**state, **new} if state.get(key) != new.get(key)]
        if not keys:
            return
        changes = "; ".join(f"{key} was {state.get(key)}, is {new.get(key)}" for key in keys)
        if any(key.startswith(_IN_STATE) and not key.split(".")[-1].startswith(_NOT_IN_STATE) for key in keys):
            hint = "To train on from its weights alone: --progress.start_epoch 0"
            raise UserError(f"this run is another one: {changes}. {hint}")
        if not self._allow_changed:
            hint = "To go on all the same: --checkpoint.allow_changed true"
            raise UserError(f"this run would not go on exactly: {changes}. {hint}")
        add_log(f"going on with changed settings: {changes}", "WARNING")


def _flatten(section: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested section's values as JSON by dotted names; an empty section has none."""
    flat = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: json.dumps(value, default=str)}
    return flat
