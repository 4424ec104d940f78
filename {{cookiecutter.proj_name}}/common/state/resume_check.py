"""The settings that decide what is computed: a run may only be resumed with the same ones."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from common.config.errors import UserError
from common.config.schema import Config
from common.config.secrets import digest, redact
from common.log.console import add_log
from common.run.distributed import get_data_size

_STEPS = ("mode", "accumulate", "precision", "compile", "channels_last", "seed", "deterministic")
_IN_STATE = ("model", "optim")  # other parts of a checkpoint depend on these settings ...
_NOT_IN_STATE = ("clip_", "ema_decay")  # ... except for these
_LOADING = ("worker", "persistent_workers", "batch_size")
# What may change of an optimizer within a run, in optim or optim.named.<name>.
_ARGUMENT = re.compile(r"optim(?:\.named\.(.+))?\.(?:lr_scaling|(lr|weight_decay)|args\.(\w+))")
_UNKNOWN = re.compile(r"\*{3}(?! [0-9a-f]{4})")  # hidden by an earlier release, without a digest


class ResumeCheck:
    """The deciding settings of a run, as a part of its checkpoints that refuses to be loaded into other ones.

    ``changed_arguments``: once loaded, those of the optimizers that differ, each with the name in ``optim.named``.
    """

    def __init__(self, config: Config):
        self._allow_changed = config.checkpoint.allow_changed
        self.changed_arguments: set[tuple[str | None, str]] = set()
        train = config.dataset.train or {}
        settings = {
            "model": config.model,
            "optim": asdict(config.optim),
            "loss": config.loss,
            "dataset.train": {key: value for key, value in train.items() if key not in _LOADING},
            "batch_size times processes": train.get("batch_size", config.batch_size) * get_data_size(),
            "progress.iters_per_epoch": config.progress.iters_per_epoch,
            "trainer": {name: getattr(config.trainer, name) for name in _STEPS},
            "user": asdict(config)["user"] or {},
        }
        self._settings = _flatten(redact(settings, mask=digest))

    def state_dict(self) -> dict[str, str]:
        """Return the settings by their dotted names, as JSON, with digests in place of secrets."""
        return self._settings

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Raise a UserError if the settings are others, so that the run would not continue as without the cut."""
        old = {key: json.dumps(redact(json.loads(text), key, digest)) for key, text in state.items()}
        new = self._settings
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _UNKNOWN.search(old.get(key, ""))]
        if not keys:
            return
        changes = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in keys)
        arguments = {key: _ARGUMENT.fullmatch(key) for key in keys}
        self.changed_arguments = {(m[1], m[2] or m[3] or "lr") for m in arguments.values() if m}
        others = [key for key in keys if not arguments[key] and not key.split(".")[-1].startswith(_NOT_IN_STATE)]
        if any(key.startswith(_IN_STATE) for key in others):
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
