"""The engine beside loops written by hand and beside its peers: python benchmarks/run.py [--workloads tiny small conv]

Each engine trains the same model on the same batches, with the same optimizer, clipping, schedule and logging, in fresh
processes that take turns. Told are microseconds a step: the median over the rounds of each process's median block of 50
steps, the smallest block, and the ratio to the usual loop by hand; seconds from the process's start to the end of its
first step; and its peak memory. The peers are installed into an environment of their own, benchmarks/.venv.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
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
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENT = HERE / ".venv"
PEERS = ["lightning", "accelerate", "pytorch-ignite", "mmengine", "torchtnt", "setuptools<81"]
ENGINES = "hand hand_fused hand_best ours ours_unfused lightning accelerate ignite mmengine torchtnt".split()
FIELDS = ("median", "smallest", "ratio", "start", "memory")
# The settings under which every process runs: one thread, and an allocator that keeps what is freed.
SETTINGS = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_MMAP_THRESHOLD_": "33554432"}
SKIPPED = 2  # blocks at the start


def run_one(engine: str, workload: str, began: float) -> None:
    """Train in this process, and print what was measured as JSON."""
    import work

    task = work.WORK[workload]()
    with tempfile.TemporaryDirectory() as folder:
        model = importlib.import_module(f"engines.{engine}").train(task, Path(folder))
    blocks = [1e6 * (end - start) / work.LOG_EVERY for start, end in zip(task.times, task.times[1:], strict=False)]
    measured = {
        "blocks": blocks[min(SKIPPED, len(blocks) - 1) :],
        "start": task.first_step_at - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weights": sum(parameter.double().sum().item() for parameter in model.parameters()),
    }
    print("\n" + json.dumps(measured))


def start(python: Path, engine: str, workload: str) -> dict:
    """Train in a fresh process, whose stderr is a terminal so that progress bars show, and return what it measured."""
    master, slave = pty.openpty()
    threading.Thread(target=_drain, args=(master,), daemon=True).start()
    command = [python, __file__, "--one", engine, workload, str(time.time())]
    done = subprocess.run(command, env=os.environ | SETTINGS, stdout=subprocess.PIPE, stderr=slave, text=True)
    os.close(slave)
    if done.returncode:
        raise SystemExit(f"{engine} on {workload}: exit code {done.returncode}; run {' '.join(map(str, command))}")
    return json.loads(done.stdout.splitlines()[-1])


def _drain(terminal: int) -> None:
    """Read what is shown, so that nobody waits."""
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        os.close(terminal)


def measure(python: Path, workload: str, engines: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return the figures of each engine on a workload."""
    found: dict[str, list[dict]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine, processes in found.items():
            processes.append(start(python, engine, workload))
    table = {
        engine: {
            "median": statistics.median(statistics.median(one["blocks"]) for one in processes),
            "smallest": min(block for one in processes for block in one["blocks"]),
            "start": statistics.median(one["start"] for one in processes),
            "memory": statistics.median(one["memory"] for one in processes),
            "weights": processes[0]["weights"],
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
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-r", requirements, *PEERS]
        subprocess.run(command, check=True)
        (ENVIRONMENT / ".installed").touch()
    return python


def versions(python: Path) -> str:
    """Return the machine and the versions of what was measured, as text."""
    names = ["torch", *(peer.partition("<")[0] for peer in PEERS[:-1])]
    script = f"import importlib.metadata as m; print(', '.join(f'{{n}} {{m.version(n)}}' for n in {names}))"
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    cpu = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line]
    machine = f"{cpu[0] if cpu else platform.processor() or 'unknown CPU'}, {os.cpu_count()} cores"
    return f"{datetime.date.today()}, {machine}, Python {platform.python_version()}, {found}"


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def plot(tables: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Write a picture of the ratios: a panel for each workload."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tables), 0.32 * max(map(len, tables.values())) + 1.2), layout="constrained")
    for axis, (workload, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        names, ratios = list(table), [figures["ratio"] for figures in table.values()]
        colours = ["C1" if name.startswith("ours") else "C7" if name.startswith("hand") else "C0" for name in names]
        bars = axis.barh(names, ratios, color=colours)
        axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=workload, xlabel="time a step, × the usual loop by hand")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print the tables, and write the page if asked."""
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["tiny", "small", "conv"])
    parser.add_argument("--engines", nargs="+", default=ENGINES, help="the first is what the others are compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", type=Path, help="an environment that has the peers already")
    parser.add_argument("--page", type=Path, help="write the tables here, and a picture beside it")
    words = parser.parse_args()
    python = words.python or find_python()
    about, tables = versions(python), {}
    print(about)
    for workload in words.workloads:
        tables[workload] = measure(python, workload, words.engines, words.rounds)
        print(f"\n{workload}\n\n{as_markdown(tables[workload])}", flush=True)
    if words.page:
        words.page.parent.mkdir(parents=True, exist_ok=True)
        picture = words.page.with_suffix(".png")
        plot(tables, picture)
        sections = "\n\n".join(f"## {workload}\n\n{as_markdown(table)}" for workload, table in tables.items())
        text = (
            f"# Speed\n\n{__doc__.split(chr(10), 2)[2].strip()}\n\n{about}\n\n![ratios]({picture.name})\n\n{sections}\n"
        )
        words.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
