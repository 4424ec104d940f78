"""Rooms that are left out: deleted by hand, one by one and all together, or declined at the render, or added later."""

import json
import os
import re
import shutil

import pytest
from conftest import ROOMS, bake, commit, expected_files, python, run

FULL = bool(os.environ.get("FULL"))  # before the tests take it away

# Tests that go through most of the core, in half a minute.
SOME = [
    "tests_common/test_imports.py",
    "tests_common/test_public_names.py",
    "tests_common/config/test_rooms.py",
    "tests_common/data/test_subset.py",
    "tests_common/engine/test_trainer.py",
    "tests_common/log/test_curves.py",
    "tests_common/state/test_file.py",
    "tests_custom/test_fashion_mnist_dataset.py",
    "tests_custom/test_image_tester.py",
]
# A key that needs each room.
KEYS = {
    "sharding": ["--dist.strategy", "fsdp"],
    "vision": ["--dataset.train.transforms", "[{type: Resize, target_size: 8}]"],
    "images": ["--dataset.train.type", "ImageFolder"],
    "measures": ["--metric.f1.type", "F1"],
    "loading": ["--loader", "thread", "--worker", "1"],
    "diagnose": ["--debug.profile", "[1, 2]"],
}


def delete(project, room):
    """Do what the README says."""
    shutil.rmtree(project / "common" / room)
    shutil.rmtree(project / "tests/tests_common" / room)
    if room == "deploy":
        for name in ("export", "serve"):  # which are given its predictor
            shutil.rmtree(project / "common" / name)
            shutil.rmtree(project / "tests/tests_common" / name)
        shutil.rmtree(project / "custom/tasks")
        shutil.rmtree(project / "tests/tests_custom/tasks")
        for name in "predict.py export.py serve.py tests/browser.py requirements-deploy.txt notebook.ipynb".split():
            (project / name).unlink()
        text = (project / "pyproject.toml").read_text()
        (project / "pyproject.toml").write_text(re.sub(r".*# for deploy\n", "", text))
        text = (project / "Dockerfile").read_text()
        (project / "Dockerfile").write_text(re.sub(r" (-r /tmp/)?requirements-deploy.txt", "", text))
    mark = re.compile(rf"# room:.*\b{room}\b.*\n")
    for path in (project / "configs").iterdir():
        lines = path.read_text().splitlines(keepends=True)
        if mark.match(lines[0]):
            path.unlink()
        else:
            path.write_text("".join(line for line in lines if not mark.search(line)))


def train(project, *flags, expect=0):
    """Train for an epoch on the CPU with the default config."""
    flags = ["--gpu_ids", "-1", "--progress.epoch", "1", *flags]
    return python("train.py", "--config", "configs/default.yaml", *flags, cwd=project, expect=expect)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A project with all rooms: copy it."""
    return bake(tmp_path_factory.mktemp("bake"), rooms="all")


@pytest.fixture(scope="module", params=[*ROOMS, "all"])
def lacking(request, whole, tmp_path_factory):
    """A project in which rooms were deleted by hand, and which."""
    project = shutil.copytree(whole, tmp_path_factory.mktemp(request.param) / "project")
    missing = ROOMS if request.param == "all" else [request.param]
    for room in missing:
        delete(project, room)
    return project, missing


def test_nothing_is_left_of_it(lacking):
    project, missing = lacking
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("ruff", "format", "--check", "--no-cache", ".", cwd=project)
    for path in (project / "configs").iterdir():
        assert not re.search(rf"# room:.*({'|'.join(missing)})", path.read_text()), path


def test_no_other_test_needs_it(lacking):
    project, missing = lacking
    python("-m", "pytest", "-q", "--collect-only", "tests", cwd=project)
    if missing == ROOMS or FULL:
        python("-m", "pytest", "-q", *(f"tests/{name}" for name in SOME), cwd=project)


def test_the_example_trains_and_is_evaluated(lacking):
    project, missing = lacking
    train(project)
    flags = ["--model_pt", "experiments/digits", "--gpu_ids", "-1"]
    python("evaluate.py", "--config", "configs/eval.yaml", *flags, cwd=project)
    (summary,) = project.glob("results/digits/*/summary.json")
    results = summary.parent
    assert json.loads((results / "summary.json").read_text()).keys() >= {"accuracy"}
    assert (results / "predictions.png").exists() == ("images" not in missing)
    assert (results / "confusion.png").exists() == ("measures" not in missing)


def test_a_key_that_needs_it(lacking):
    project, missing = lacking
    for room in missing:
        if room in ("text", "deploy"):  # no key opens them: the example's own files import the one, scripts the other
            continue
        if room == "tools":
            assert "No module named" in python("-m", "common.tools.compare", cwd=project, expect=1).stderr
            continue
        said = train(project, "--name", "refused", *KEYS[room], expect=2).stderr
        assert re.fullmatch(rf"train.py: error: [^\n]*\bcommon/{room}\b[^\n]*\n", said), said


def test_an_update_adds_them(tmp_path, template_copy):
    answers = json.dumps({"example": "minimal", "ops": "no"})
    python("-m", "cruft", "create", template_copy, "--no-input", "--extra-context", answers, cwd=tmp_path)
    project = tmp_path / "my_project"
    commit(project, "Where it comes from")
    python("-m", "cruft", "update", "-y", "--variables-to-update", '{"rooms": "all"}', cwd=project)
    found = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith((".git/", ".cruft"))} == expected_files(
        "minimal", "all", "no"
    )
    assert "kornia" in (project / "requirements.txt").read_text()
