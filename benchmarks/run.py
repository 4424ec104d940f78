"""The engine beside loops written by hand and beside its peers: python benchmarks/run.py [--workloads tiny small ...]

Each engine does the same work on the same model and batches, with the same optimizer, clipping, schedule and logging,
in fresh processes that take turns. The tables give microseconds a step (the median over the rounds of each process's
median block of 50 steps, or 10 of conv; then the smallest block), the ratio to the usual loop by hand, the seconds from
the process's start to the end of its first step, and its peak memory. The peers are installed into an environment of
their own, benchmarks/.venv.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import itertools
import json
import os
import platform
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENT = HERE / ".venv"
INSTALLED = ["lightning", "accelerate", "pytorch-ignite", "mmengine", "torchtnt", "setuptools<81"]
PEERS = ["lightning", "accelerate", "ignite", "mmengine", "torchtnt"]
FIELDS = ("median", "smallest", "ratio", "start", "memory")
# The settings under which every process runs: one thread, and an allocator that keeps what is freed.
SETTINGS = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_THRESHOLD_": "33554432"}
SKIPPED = 2  # blocks at the start


@dataclass
class Workload:
    """What is measured, and on which engines; the first is what the others are compared with."""

    about: str
    engines: list[str]
    processes: int = 1


WORKLOADS = {
    "tiny": Workload(
        "Linear layers 64-64-10, batches of 32 from a list: what an engine costs.",
        ["hand", "hand_fused", "hand_best", "ours", "ours_unfused", *PEERS],
    ),
    "small": Workload(
        "Linear layers 784-512-512-10, batches of 64 from a list.",
        ["hand", "hand_fused", "hand_best", "ours", "ours_unfused", *PEERS],
    ),
    "conv": Workload(
        "ResNet-18 on 32 x 32 pixels, batches of 64 from a list.",
        ["hand", "hand_fused", "ours", "ours_unfused", *PEERS],
    ),
    "loader": Workload(
        "As tiny, from a loader over a set in memory: torch's with its default collation, or the engine's own.",
        ["hand", "hand_fused", "ours", *PEERS],
    ),
    "augment": Workload(
        "Images of 32 x 32 pixels, augmented one by one in 2 worker processes, for a small model that waits for them.",
        ["hand", "hand_fused", "ours", *PEERS],
    ),
    "ddp": Workload("As small, on 2 processes.", ["hand", "hand_fused", "ours", *PEERS], 2),
    "validation": Workload(
        "As small, a pass with loss and accuracy; the engine's own process makes a training step before.",
        ["hand", "ours", *PEERS],
    ),
    "accumulate": Workload("As small, with an optimizer step after every fourth batch.", ["hand_fused", "ours"]),
    "ema": Workload("As small, with an average of the weights.", ["hand_fused", "ours"]),
    "bf16": Workload("As small, in bf16 mixed precision.", ["hand_fused", "ours"]),
    "compile": Workload("As small, compiled; the start is that with a warm cache.", ["hand_fused", "ours"]),
}
PARTS = {
    "parts.py": "Ten loss terms, metrics and parameter groups",
    "checkpoints.py": "Saving and going on",
    "augmentation.py": "Augmentation of whole batches",
}


def run_one(engine: str, name: str, began: float) -> None:
    """Do the work in this process, and print what was measured as JSON."""
    import work

    task = work.WORK[name]()
    module = importlib.import_module(f"engines.{engine}")
    with tempfile.TemporaryDirectory() as folder:
        if name == "validation":
            result = module.validate(task, Path(folder))["loss"]
        else:
            result = sum(parameter.double().sum().item() for parameter in module.train(task, Path(folder)).parameters())
    if int(os.environ.get("RANK", 0)):
        return
    blocks = [1e6 * (end - start) / task.block for start, end in itertools.pairwise(task.times)]
    measured = {
        "blocks": blocks[SKIPPED:],
        "start": task.first_step_at - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "result": result,
    }
    print("\n" + json.dumps(measured))


def start(python: Path, engine: str, name: str) -> dict:
    """Work in a fresh process, whose stderr is a terminal so that progress bars show, and return what it measured."""
    master, slave = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=_read_terminal, args=(master, shown))
    reader.start()
    processes = WORKLOADS[name].processes
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [python, *(torchrun if processes > 1 else []), __file__, "--one", engine, name, str(time.time())]
    done = subprocess.run(command, env=os.environ | SETTINGS, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    reader.join()
    if done.returncode:
        raise SystemExit(f"{engine} on {name}: exit code {done.returncode}\n{b''.join(shown).decode()[-4000:]}")
    return next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith('{"blocks"'))


def _read_terminal(terminal: int, shown: list[bytes]) -> None:
    """Read what is shown, so that nobody waits."""
    try:
        while data := os.read(terminal, 1 << 16):
            shown.append(data)
    except OSError:  # how a terminal ends
        os.close(terminal)


def measure(python: Path, name: str, engines: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return the figures of each engine on a workload."""
    found: dict[str, list[dict]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, processes in found.items():
            processes.append(start(python, engine, name))
    table = {
        engine: {
            "median": statistics.median(statistics.median(one["blocks"]) for one in processes),
            "smallest": min(block for one in processes for block in one["blocks"]),
            "start": statistics.median(one["start"] for one in processes),
            "memory": statistics.median(one["memory"] for one in processes),
        }
        for engine, processes in found.items()
    }
    for figures in table.values():
        figures["ratio"] = figures["median"] / table[engines[0]]["median"]
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """Return the figures as a table."""
    first = next(iter(table))
    lines = [
        f"| engine | µs a step | smallest | × {first} | start, s | memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for engine, figures in table.items():
        median, smallest, ratio, began, memory = (figures[name] for name in FIELDS)
        lines.append(f"| {engine} | {median:,.0f} | {smallest:,.0f} | {ratio:.2f} | {began:.2f} | {memory:,.0f} |")
    return "\n".join(lines)


def find_python() -> Path:
    """Return the Python of the benchmarks' own environment, made first if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".installed").exists():
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        requirements = ROOT / "{{cookiecutter.proj_name}}" / "requirements.txt"
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-r", requirements, *INSTALLED]
        subprocess.run(command, check=True)
        (ENVIRONMENT / ".installed").touch()
    return python


def versions(python: Path) -> str:
    """Return the machine and the versions of what was measured, as text."""
    names = ["torch", *(peer.partition("<")[0] for peer in INSTALLED[:-1])]
    script = f"import importlib.metadata as m; print(', '.join(f'{{n}} {{m.version(n)}}' for n in {names}))"
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    cpu = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line]
    machine = f"{cpu[0] if cpu else platform.processor() or 'unknown CPU'}, {os.cpu_count()} cores"
    return f"{datetime.date.today()}, {machine}, Python {platform.python_version()}, {found}"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def plot(tables: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Write a picture of the ratios: a panel for each workload that has peers."""
    from matplotlib.figure import Figure

    shown = {name: table for name, table in tables.items() if PEERS[0] in table} or tables
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for axis, (name, table) in zip(axes, shown.items(), strict=False):
        engines, ratios = list(table), [figures["ratio"] for figures in table.values()]
        colors = [
            "C1" if engine.startswith("ours") else "C7" if engine.startswith("hand") else "C0" for engine in engines
        ]
        bars = axis.barh(engines, ratios, color=colors)
        axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=name, xlabel="time a step, × the usual loop by hand")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def write_page(path: Path, about: str, tables: dict[str, dict[str, dict[str, float]]], parts: dict[str, str]) -> None:
    """Write the tables and what the parts' programs printed, and a picture beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.with_suffix(".png")
    plot(tables, picture)
    sections = [f"# Speed\n\n{__doc__.split(chr(10), 2)[2].strip()}", about, f"![ratios]({picture.name})"]
    sections += [f"## {name}\n\n{WORKLOADS[name].about}\n\n{as_markdown(table)}" for name, table in tables.items()]
    sections += [f"## {PARTS[name]}\n\n```text\n{text.strip()}\n```" for name, text in parts.items()]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print the tables, and write the page if asked."""
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--engines", nargs="+", help="the first is what the others are compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=PARTS, help="programs for parts of the engine"
    )
    parser.add_argument("--python", type=Path, help="an environment that has the peers already")
    parser.add_argument("--page", type=Path, help="write the tables here, and a picture beside it")
    args = parser.parse_args()
    python = args.python or find_python()
    about, tables, parts = versions(python), {}, {}
    print(about)
    for name in args.workloads:
        tables[name] = measure(python, name, args.engines or WORKLOADS[name].engines, args.rounds)
        print(f"\n{name}: {WORKLOADS[name].about}\n\n{as_markdown(tables[name])}", flush=True)
    for name in args.parts:
        parts[name] = subprocess.run([python, HERE / name], capture_output=True, text=True, check=True).stdout
        print(f"\n{PARTS[name]}\n\n{parts[name]}", flush=True)
    if args.page:
        write_page(args.page, about, tables, parts)


if __name__ == "__main__":
    main()
