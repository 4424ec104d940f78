"""A model as a folder to publish: weights, config, and a card about both."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from common.config.errors import UserError
from common.config.registry import find_room
from common.deploy.export import export
from common.deploy.model_file import WEIGHTS
from common.deploy.predictor import Predictor
from common.state.checkpoint import find_checkpoint
from common.state.experiment import describe_environment
from common.state.file import read_plain

_OWN = ("dir", "model_pt", "resume", "debug")  # what concerns the machine it was trained on alone


def export_folder(
    predictor: Predictor, model_pt: Path, folder: Path, given: str | None = None, data_dir: str | None = None
) -> float:
    """Write a folder to publish, and return the largest difference between its model's outputs and the checkpoint's.

    Args:
        predictor: The model and its task.
        model_pt: Its checkpoint; the curves and the results are those of the experiment that it lies in.
        folder: ``model.safetensors``, ``config.json``, ``README.md``, and ``curves.png`` and ``environment.txt`` if the
            checkpoint lies in an experiment. It must not exist, or be empty.
        given: Inputs to compare on, as for ``export``.
        data_dir: Root of all data sets, as for ``export``.

    Raises:
        UserError: The folder holds something, or the export cannot be compared.
        RunError: The export failed.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--output {folder}: exists, and is not overwritten")
    checkpoint = find_checkpoint(str(model_pt))
    run = checkpoint.parent.parent
    config = {key: value for key, value in predictor.about.config.items() if key not in _OWN}
    public = Predictor(predictor.model, replace(predictor.about, config=config), predictor.device)
    difference = export(public, "safetensors", folder / WEIGHTS, given, data_dir or _data_dir(predictor))
    (folder / "config.json").write_text(json.dumps(asdict(public.about), indent=2) + "\n", encoding="utf-8")
    environment = run / "environment.txt"
    text = environment.read_text("utf-8") if environment.is_file() else describe_environment(predictor.device)
    (folder / "environment.txt").write_text(text.partition("\nuncommitted changes:")[0].strip() + "\n", "utf-8")
    drawn = _draw_curves(run, folder / "curves.png")
    (folder / "README.md").write_text(_card(public, results_of(run, checkpoint), drawn), encoding="utf-8")
    return difference


def _data_dir(predictor: Predictor) -> str | None:
    return (predictor.about.config.get("dir") or {}).get("data_dir")


def _draw_curves(run: Path, path: Path) -> bool:
    """Draw the curves of a run, if it has some and the room that draws them is there."""
    plot, curves = find_room("tools.plot"), find_room("tools.curves")
    if not plot or not (run / "metrics.jsonl").is_file():
        return False
    with suppress(UserError):  # it has nothing to draw yet
        plot.plot({plot.name_of(run): curves.read_curves(run)}).savefig(path, dpi=120)
    return path.is_file()


def results_of(run: Path, checkpoint: Path) -> dict[str, dict[str, float]]:
    """Return what the run has measured at the moment of a checkpoint, by split: validation, and evaluation if any."""
    if not (run / "metrics.jsonl").is_file():
        return {}
    step = (read_plain(checkpoint).get("trainer") or {}).get("total_iterations")
    results: dict[str, dict[str, float]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["split"] in ("val", "eval") and line["step"] == step:
            place = ("split", "epoch", "step", "time")
            results[line["split"]] = {key: value for key, value in line.items() if key not in place}
    return results


def _card(predictor: Predictor, results: dict[str, dict[str, float]], drawn: bool) -> str:
    about, task = predictor.about, predictor.task
    config, name = about.config, about.config.get("name", "model")
    count = sum(value.numel() for value in predictor.model.parameters())
    front = {"library_name": "pytorch", "tags": ["pytorch", "safetensors"]} | (
        {"pipeline_tag": task.tag} if task.tag else {}
    )
    names = {"val": "validation", "eval": "evaluation"}
    rows = [
        f"| {names[split]} | {key} | {value:.4g} |" for split, part in results.items() for key, value in part.items()
    ]
    data = {split: section for split, section in (config.get("dataset") or {}).items() if isinstance(section, dict)}
    optim = config.get("optim") or {}
    steps = f"{optim.get('type')}, learning rate {optim.get('lr')}, batches of {config.get('batch_size')}"
    given = '"photo.jpg"' if task.accepts == "image" else '"Once upon a time"'
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n# {name}",
        f"`{config['model'].get('type')}` with {count:,} parameters. {_first_line(task)}",
        f"Classes: {', '.join(about.classes)}." if about.classes else "",
        "## Use",
        "In a copy of the project that trained it, with `pip install -r requirements.txt safetensors`:",
        "```python\nfrom common.deploy.predictor import Predictor\n\n"
        f'predictor = Predictor.from_checkpoint("path/to/this/folder")\nprint(predictor({given}))\n```',
        f"On the command line: `python predict.py --model_pt path/to/this/folder --input {given}`.",
        "## Results" if rows else "",
        "\n".join(["| data | result | value |", "| --- | --- | --- |", *rows]) if rows else "",
        "![Curves of the training](curves.png)" if drawn else "",
        "## Data",
        f"```yaml\n{yaml.safe_dump(data, sort_keys=False)}```",
        "## Training",
        f"{steps}. The whole config is in `config.json`, the versions are in `environment.txt`; the engine's is "
        f"{about.engine or 'unknown'}.",
        "## To be filled in",
        "License; where the data comes from; what the model is meant for, and where it fails.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _first_line(task: Any) -> str:
    return (type(task).__doc__ or "").strip().partition("\n")[0]
