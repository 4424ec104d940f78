"""Baking projects and living in them, with a home, a git and temporary folders that belong to the tests alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "{{cookiecutter.proj_name}}"
EXAMPLES = ["classification", "images", "segmentation", "language", "gan", "minimal", "all"]
ROOMS = ["sharding", "vision", "images", "measures", "diagnose", "tools", "text", "deploy", "loading"]
GIT = "[user]\nname = A Tester\nemail = tester@example.org\n[init]\ndefaultBranch = other\n"


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory):
    """Keep the tests away from the user's settings, and everything they leave in a folder that goes away."""
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    (home / ".gitconfig").write_text(GIT)
    settings = {
        "HOME": home,
        "TMPDIR": home / "tmp",
        "PRE_COMMIT_HOME": home / "pre-commit",
        "GIT_CONFIG_NOSYSTEM": 1,
        "OMP_NUM_THREADS": 1,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("GIT_", "COOKIECUTTER_", "XDG_")):
                patch.delenv(name)
        patch.delenv("FULL", raising=False)  # the project's long tests run in place, once
        for name, value in settings.items():
            patch.setenv(name, str(value))
        yield home


def run(*command, cwd, expect=0, **options):
    """Run a command and return what came of it; fail, showing its output, where the exit status is another."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        text=True,
        capture_output=True,
        **({} if "input" in options else {"stdin": subprocess.DEVNULL}),
        **options,
    )
    if expect is not None and done.returncode != expect:
        pytest.fail(f"{command}: exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def python(*arguments, cwd, **options):
    """Run this Python."""
    return run(sys.executable, *arguments, cwd=cwd, **options)


def render(folder, template=ROOT, expect=0, env=None, **answers):
    """Run cookiecutter, without questions, into a folder."""
    given = [f"{key}={value}" for key, value in answers.items()]
    return python("-m", "cookiecutter", template, "--no-input", *given, cwd=folder, expect=expect, env=env)


def bake(folder, **answers):
    """Render a project into a folder and return where it is."""
    render(folder, **answers)
    return folder / answers.get("proj_name", "my_project")


def text_of(folder):
    """Return path → text of every text file of a project, without its history."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    texts = {}
    for path in sorted(files):
        data = path.read_bytes()
        if b"\0" not in data:
            texts[path.relative_to(folder).as_posix()] = data.decode()
    return texts


def rooms_of(example, rooms="recommended"):
    """Return the rooms of a project with these answers."""
    needed = {
        "images": {"vision", "images"},
        "segmentation": {"vision", "images", "measures"},
        "language": {"text"},
        "gan": {"images"},
        "all": {"vision", "images", "measures", "text"},
    }
    if rooms == "none" or (rooms == "recommended" and example == "minimal"):
        return needed.get(example, set())
    unfit = {
        "language": {"vision", "images", "measures"},
        "gan": {"measures", "text", "deploy"},
        "all": set(),
    }.get(example, {"text"})
    return set(ROOMS) - (unfit if rooms == "recommended" else set())


def expected_files(example, rooms="recommended", ops="yes"):
    """Return the files of a project with these answers.

    In expected_files.txt, a line that names examples behind a colon stands for these alone. What a path does not tell
    stands there, too: a room that the file needs, or ops.
    """
    present = rooms_of(example, rooms) | ({"ops"} if ops == "yes" else set())
    files = set()
    for line in (ROOT / "tests/expected_files.txt").read_text().splitlines():
        name, _, words = line.partition(":")
        examples = set(words.split()) & set(EXAMPLES)
        needed = {*name.split("/")[:3], *words.split()} & {*ROOMS, "ops"} - examples
        if needed <= present and example in (examples or EXAMPLES):
            files.add(name)
    return files


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A fresh project, by the defaults: look, do not touch."""
    return bake(tmp_path_factory.mktemp("bake"))


@pytest.fixture(scope="session")
def template_copy(tmp_path_factory):
    """A git clone, as it were, of the template as it stands in the working tree: look, do not touch."""
    copy = tmp_path_factory.mktemp("template") / "template"
    listed = run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    run("git", "init", "-q", cwd=copy)
    commit(copy, "The template")
    return copy


def commit(repository, message):
    """Commit everything in a repository."""
    run("git", "add", "--all", cwd=repository)
    run("git", "commit", "-q", "--no-verify", "-m", message, cwd=repository)
