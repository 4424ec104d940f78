"""Finishes a new project: drops what runs left in the template, renames the package, begins the history."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = Path.cwd()
OTHERS = {".git", ".venv", "experiments", "results"}
PACKAGE = re.compile(
    rb"(?<![\w.-])custom(?=/|\.\w)|(?<=\bfrom )custom(?= import\b)|(?<=\bimport )custom(?= as\b|,|\s*$)", re.MULTILINE
)


def git(*words, cwd=PROJECT):
    """Run git, asking nothing; return what it printed, or None where it failed or is missing."""
    try:
        done = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def drop_leftovers():
    """Remove what came along though the template's git ignores it: caches and experiments of a run in place."""
    template = Path(os.environ.get("PWD", ""), ANSWERS.get("_repo_dir", ""))
    for source in template.glob("*cookiecutter.proj_name*/"):
        for name in (git("ls-files", "-oiz", "--exclude-standard", cwd=source) or "").split("\0"):
            with contextlib.suppress(OSError):
                Path(name).unlink()
                os.removedirs(Path(name).parent)


def rename_package(name):
    """Rename the folder custom/ and the places where the word means it: elsewhere it is plain English."""
    shutil.copytree("custom", name, dirs_exist_ok=True)
    shutil.rmtree("custom")
    for path in PROJECT.rglob("*"):
        if path.is_file() and not OTHERS & set(path.relative_to(PROJECT).parts):
            old = path.read_bytes()
            new = old if b"\0" in old else PACKAGE.sub(name.encode(), old)
            if new != old:
                path.write_bytes(new)


def is_scratch():
    """Tell whether cruft renders only to compare: into a temporary folder, which a history would spoil."""
    parent = PROJECT.resolve().parent
    return (
        "_commit" in ANSWERS
        and parent.parent == Path(tempfile.gettempdir()).resolve()
        and re.fullmatch(r"tmp[a-z0-9_]{8}", parent.name) is not None
    )


def begin_history():
    """Make a repository with a first commit, unless the project is already in one; never fail."""
    if git("rev-parse", "--is-inside-work-tree") is not None:
        return
    if git("init") is None:
        print("No git repository was made: git is not installed, or failed.")
        return
    git("symbolic-ref", "HEAD", "refs/heads/main")
    git("add", "--all")
    if git("commit", "--no-verify", "--no-gpg-sign", "-m", "Start from the template") is None:
        print("Nothing is committed yet: tell git your user.name and user.email, then commit.")


def main():
    """Run each step in turn and say what comes next."""
    drop_leftovers()
    if ANSWERS["package_name"] != "custom":
        rename_package(ANSWERS["package_name"])
    if is_scratch():
        return
    begin_history()
    print("Next:")
    print(f"  cd {shlex.quote(str(PROJECT))} && pip install -r requirements.txt")
    print("  python train.py --config configs/default.yaml")
    if "_commit" in ANSWERS:
        print("And commit .cruft.json: it tells later updates where the project comes from.")


main()
