"""What the benchmarks compare is the same work: the engine ends where the loop by hand ends, to the last bit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import run

SAME = [("tiny", "hand", "ours_unfused"), ("tiny", "hand_fused", "ours"), ("validation", "hand", "ours")]
SAME += [(feature, "hand_fused", "ours") for feature in ("ddp", "accumulate", "bf16")]


@pytest.mark.parametrize("workload,one,other", SAME)
def test_the_same_work(workload, one, other):
    measured = [run.start(Path(sys.executable), engine, workload) for engine in (one, other)]
    assert measured[0]["result"] == measured[1]["result"]
    for figures in measured:
        assert all(block > 0 for block in figures["blocks"])
        assert figures["start"] > 0


def test_the_page(tmp_path):
    figures = {"median": 200.0, "smallest": 150.0, "ratio": 0.5, "start": 1.0, "memory": 1234.0}
    tables = {name: dict.fromkeys(workload.engines, figures) for name, workload in run.WORKLOADS.items()}
    run.write_page(tmp_path / "speed.md", "A machine", tables, {"parts.py": "a step: 3 µs\n"})
    text = (tmp_path / "speed.md").read_text()
    assert "| lightning | 200 | 150 | 0.50 | 1.00 | 1,234 |" in text
    assert "```text\na step: 3 µs\n```" in text
    assert (tmp_path / "speed.png").stat().st_size > 10_000
