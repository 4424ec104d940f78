"""Every command that a README gives is run here, or stands in a short list with the reason why not.

A block of Python or YAML that opens with a file's path in a comment is written there first. Each block of commands
starts in the README's own folder.
"""

import re
import sys

import pytest
from conftest import ROOT, SOURCE, bake, python, run

NOT_RUN = {
    "make test": "it is what runs this test",
    "python -m pytest": "runs the tests that unittest has just run",
    "python serve.py --model_pt experiments/{{ name }}": "serves until it is ended",
    "python serve.py --model_pt experiments/digits": "serves until it is ended",
}


def blocks(folder, language, page="README.md"):
    """Return the fenced blocks in one language of a folder's page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (folder / page).read_text(), re.MULTILINE | re.DOTALL)


def follow(folder):
    """Do what a folder's rules for agents and its README say."""
    for text in blocks(folder, "bash", "AGENTS.md"):
        run("bash", "-exc", text, cwd=folder)
    for text in blocks(folder, "python") + blocks(folder, "yaml"):
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", text):
            (folder / named[1]).write_text(text)
    for text in blocks(folder, "bash"):
        lines = [line for line in text.splitlines() if line not in NOT_RUN]
        run("bash", "-exc", "\n".join(lines), cwd=folder)


@pytest.fixture(autouse=True)
def nothing_new_is_installed(monkeypatch):
    """Let pip find that all is there, or fail."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def clone(template_copy, tmp_path):
    """A clone of the template in which make finds this environment, and takes it as installed."""
    folder = tmp_path / "a clone"
    run("git", "clone", "-q", template_copy, folder, cwd=tmp_path)
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(f"{sys.prefix}/{name}")
    (folder / ".venv/.installed").touch()
    return folder


def test_what_is_left_out_is_there():
    listed = {line for line in NOT_RUN if "digits" not in line}  # which stands there with the name to be filled in
    assert listed <= set("".join(blocks(ROOT, "bash") + blocks(SOURCE, "bash")).splitlines())


def test_what_agents_are_told_is_there():
    text = (SOURCE / "AGENTS.md").read_text()
    folders = re.findall(r"`(custom/\w+|common|tests/\w+)/`", text)
    names = {*re.findall(r"@(\w+_REGISTRY)", text), "BaseDataset", "MeanMetric", "Trainer", "UserError", "master_only"}
    assert len(folders) > 8 and len(names) > 10
    for folder in folders:
        assert (SOURCE / folder).is_dir(), folder
    python("-c", f"from common import {', '.join(sorted(names))}", cwd=SOURCE)
    for folder in (ROOT, SOURCE):
        assert "AGENTS.md" in (folder / "CLAUDE.md").read_text()


def test_the_demo_twice(clone):
    run("make", "demo", cwd=clone)
    done = run("make", "demo", cwd=clone)
    picture = re.sub(r"<[^>]+>", "", (clone / "docs/run.svg").read_text()).replace("&#160;", " ")
    for part in ("train", "val", "eval"):
        lines = (" ".join(re.findall(rf"\| ?{part} \| (.*)", text)) for text in (picture, done.stderr))
        shown, now = (set(re.findall(r"([a-z]\w*) [\d.]", line)) for line in lines)
        assert shown and shown == now, part
    said = done.stdout.split("On the validation set:\n")[1]
    assert float(re.search(r"best +accuracy ([\d.]+)", said)[1]) >= 0.97
    for folder in re.findall(r"demo/\S+", said):
        assert list((clone / folder).iterdir())
    assert "tensorboard --logdir demo/my_project/experiments/digits/event" in said
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_the_template_does_what_it_says(clone):
    follow(clone)


def test_the_project_does_what_it_says(tmp_path):
    follow(bake(tmp_path))
