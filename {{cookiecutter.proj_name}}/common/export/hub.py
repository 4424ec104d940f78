"""A model as a folder to publish: weights, config, and a card about both."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from common.config.errors import UserError
from common.config.registry import find_room
from common.export.export import export
from common.state.experiment import describe_environment
from common.state.file import read_plain

Predictor = Any  # that of the room deploy
_PLACE = ("split", "epoch", "step", "time")
_OWN = ("dir", "model_pt", "resume", "debug")  # what concerns the machine it was trained on alone


def export_folder(
    predictor: Predictor, checkpoint: Path, folder: Path, given: list[Path] | None = None, data_dir: str | None = None
) -> float:
    """Write a folder to publish, and return the largest difference between its model's outputs and the checkpoint's.

    Args:
        predictor: The model and its task.
        checkpoint: Its file; the curves and the results are those of the experiment that it lies in.
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
    run = checkpoint.parent.parent
    config = {key: value for key, value in predictor.about.config.items() if key not in _OWN}
    public = type(predictor)(predictor.model, replace(predictor.about, config=config), predictor.device)
    difference = export(public, "safetensors", folder / "model.safetensors", given, data_dir or _data_dir(predictor))
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
            name = {"val": "validation", "eval": "evaluation"}[line["split"]]
            results[name] = {key: value for key, value in line.items() if key not in _PLACE and value is not None}
    return results


def _card(predictor: Predictor, results: dict[str, dict[str, float]], drawn: bool) -> str:
    """Return the model card: ``card.md`` with the facts of a run; empty paragraphs are left out."""
    about, task = predictor.about, predictor.task
    config, optim = about.config, about.config.get("optim") or {}
    front = {"library_name": "pytorch", "tags": ["pytorch", "safetensors"]}
    data = {split: section for split, section in (config.get("dataset") or {}).items() if isinstance(section, dict)}
    rows = [f"| {split} | {key} | {value:.4g} |" for split in results for key, value in results[split].items()]
    predict, text = "python predict.py --model_pt path/to/this/folder --input", task.accepts == "text"
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    filled = card.format(
        front=yaml.safe_dump(front | ({"pipeline_tag": task.tag} if task.tag else {}), sort_keys=False),
        name=config.get("name", "model"),
        model=config["model"].get("type"),
        parameters=sum(value.numel() for value in predictor.model.parameters()),
        says=task.says(),
        classes=f"Classes: {', '.join(about.classes)}." if about.classes else "",
        example='"Once upon a time"' if text else '"photo.jpg"',
        command=f"echo 'Once upon a time' | {predict} -" if text else f"{predict} photo.jpg",
        results="\n".join(["## Results\n\n| data | result | value |\n| --- | --- | --- |", *rows]) if rows else "",
        curves="![Curves of the training](curves.png)" if drawn else "",
        data=yaml.safe_dump(data, sort_keys=False),
        optimizer=optim.get("type"),
        lr=optim.get("lr"),
        batch_size=config.get("batch_size"),
        engine=about.engine or "unknown",
    )
    return re.sub(r"\n{3,}", "\n\n", filled)
