"""Mutated configs: each is refused in one line, or trains for some iterations; none ends in a traceback.

``python -m tests.mutations --loaded 2000 --trained 250`` takes some minutes; ``--seed`` draws others.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import difflib
import importlib
import io
import os
import random
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from common.config.console import command
from common.config.load import load_config
from common.config.schema import Config

ROOT = Path(__file__).resolve().parents[1]
VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**12, 10**15, 2**63, -(10**15), 10**400, 0.0, 0.5, 1.0, 1.5]
VALUES += [-0.5, 1e-30, 1e30, 1e300, float("nan"), float("inf"), -float("inf"), "", " ", "a", "None", "null", "1e-4"]
VALUES += [
    "1",
    "-1",
    "true",
    "[1, 2]",
    "{a: 1}",
    "a/b",
    "../a",
    "/",
    "~",
    "é",
    "x" * 300,
    "a\0b",
    "a\nb",
    "\u2028",
    "*",
]
VALUES += [
    [],
    [1],
    [1, 2],
    [[1], [2]],
    ["a"],
    [None],
    {},
    {"a": 1},
    {"type": "a"},
    {"type": None},
    {1: 2},
    "auto",
    "{time}",
]
VALUES += (
    "SGD Adam Adagrad LBFGS Muon SparseAdam StepLR ExponentialLR OneCycleLR CyclicLR LambdaLR SequentialLR".split()
)
VALUES += (
    "ReduceLROnPlateau MSELoss NLLLoss CTCLoss CrossEntropyLoss L1Loss Accuracy DigitsDataset DigitsModel MLP".split()
)
VALUES += (
    "epoch iter bf16 fp16 linear value skip replace fsdp tp dp none loss accuracy logits label image val eval".split()
)
# What would take long, begin other processes, or write elsewhere.
FIXED = {"gpu_ids": "-1", "trainer.compile": "false", "dist.nproc": "null", "worker": "0"}
FIXED |= {"progress.epoch": "1", "progress.iters_per_epoch": "3"}


def sections_of(config: Any) -> list[Any]:
    """Return every dict and list in a config that has entries."""
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return [*([config] if inner else []), *(section for value in inner for section in sections_of(value))]


def mutate(config: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Return a config with one to three entries changed, added, renamed, moved or deleted."""
    config = copy.deepcopy(config)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        section = draw.choice(sections_of(config) or [config])
        if isinstance(section, list):
            section[draw.randrange(len(section))] = copy.deepcopy(draw.choice(VALUES))
            continue
        key, other = draw.choice([*section] or ["a"]), draw.choice(sections_of(config) or [config])
        kind = draw.choice(["change"] * 8 + ["delete", "rename", "add", "move"])
        if kind in ("change", "add"):
            section[key if kind == "change" else draw.choice(["a", "type", "weight", "input_name", 1, "", "lr"])] = (
                copy.deepcopy(draw.choice(VALUES))
            )
        elif kind == "move" and isinstance(other, dict):
            other[key] = copy.deepcopy(section.pop(key, None))
        elif (value := section.pop(key, None)) is not None and kind == "rename":
            section[f"{key}"[:-1] or "x"] = value
    return config


def garble(text: str, draw: random.Random) -> bytes:
    """Return the text of a file with some characters or lines changed."""
    lines = text.splitlines()
    place = draw.randrange(len(lines))
    lines[place] = draw.choice(
        ["", f" {lines[place]}", lines[place].lstrip(), lines[place][:-3], lines[place] * 2, "\t", "- a"]
    )
    data = bytearray("\n".join(lines).encode())
    for _ in range(draw.choice([0, 1, 3])):
        data[draw.randrange(len(data))] = draw.choice(b"\0\n\t :{}[]&*!|>'\"%@`#-0\xff")
    return bytes(data)


def load(argv: list[str]) -> tuple[Config | None, str]:
    """Return what the loader makes of a command line, a config or one line; an AssertionError is raised otherwise."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), command():
            return load_config(argv), ""
    except SystemExit as end:
        assert end.code == 2 and re.fullmatch(r"[^\n]*: error: [^\n]+\n", said.getvalue()), said.getvalue()
        return None, said.getvalue()


def train(config: Config, folder: Path, seconds: int) -> str:
    """Train in a process of its own; return what it said if it ended in any other way than a run may, or nothing."""
    said = folder / "said"
    child = os.fork()
    if not child:
        os.chdir(folder)  # relative paths lead here
        with said.open("w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        signal.alarm(seconds)
        try:
            from common.run.launch import launch
            from custom import build_trainer

            with command(), launch(config) as session:
                build_trainer(config, session).run()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 99
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 98
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(errors="replace")
    return "" if code in (0, 1, 2, -signal.SIGALRM) and "Traceback" not in text else f"exit code {code}\n{text}"


def main(argv: list[str] | None = None) -> None:
    """Mutate the default config, and count what becomes of it; exit with 1 if anything ended in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loaded", type=int, default=2000, help="mutated configs for the loader")
    parser.add_argument("--trained", type=int, default=250, help="of those it accepts, how many are trained")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args(argv)
    draw, accepted, faults = random.Random(words.seed), [], []
    text = (ROOT / "configs/default.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.yaml")
        for _ in range(words.loaded):
            data = mutate(yaml.safe_load(text), draw)
            file.write_bytes(garble(text, draw) if draw.random() < 0.3 else yaml.safe_dump(data).encode())
            try:
                if load(["--config", str(file)])[0]:
                    accepted.append(file.read_bytes())
            except Exception as error:
                faults.append((file.read_bytes(), error))
        print(f"{words.loaded} loaded, {len(accepted)} accepted, {len(faults)} tracebacks", flush=True)
        importlib.import_module("custom.trainers")  # once, for all children
        for i, content in enumerate(accepted[: words.trained]):
            place = Path(folder, str(i))
            place.mkdir()
            (place / "data").symlink_to(ROOT / "data")
            file.write_bytes(content)
            config, _ = load(["--config", str(file), *(f"--{key}={value}" for key, value in FIXED.items())])
            if config and (said := train(config, place, 60)):
                faults.append((content, said))
    before = yaml.safe_dump(yaml.safe_load(text)).splitlines()
    for content, said in faults:
        print(
            *difflib.unified_diff(before, content.decode(errors="replace").splitlines(), n=1, lineterm=""),
            said,
            sep="\n",
        )
    print(f"{min(len(accepted), words.trained)} trained, {len(faults)} tracebacks in all")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
