"""Hostile answers: a project that works comes of them, or one line on stderr and nothing else."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SOURCE, bake, python, render, run, text_of

BLANKS = [
    "", " ", " lead", "trail ", "a b", "tab\there", "line\nbreak", "return\r", "bell\x07", "\x1b[0m", "\u2028",
    "{{ 7 * 7 }}", "{{", "{% raw %}", "{# note", "{% raw %}{{ 7 * 7 }}{% endraw %}", "{{ '{{' }} 7 }}", "a" * 201,
]  # fmt: skip
FOLDERS = """
    plain under_score dash-ed dot.ted 3d CamelCase ünïcode 名前 it's qu"ote back\\slash sl/ash ../up /abs/olute a/../b
    torch Pre.Commit_ ~ . .. ... a..b .hidden -dash --flag $HOME semi;colon star* {brace} <tag> `tick` C:
""".split()
PACKAGES = """
    plain under_score CamelCase custom ünïcode it's qu"ote back\\slash sl/ash ../up . -dash dash-ed dot.ted 3d _private
    __init__ class None match print int os json typing torch numpy yaml PIL common Common tests train configs data tqdm
    plain_loop predict export serve dill pydantic distutils compression build dist idna coverage conftest
""".split()
TEXTS = [
    "😀", "é", "\u202eright to left", "}}", "'''", '"""', "it's", 'qu"ote', "\\", "\\n", '\\"', "'; os.abort() #",
    '"); raise SystemExit("', "$(touch left)", "`touch left`", "; touch left", "# heading", "```", "<!--", "</p>",
    "&amp;", "key: value", "- item", "---", "!!python/object", "[table]", "%s", "a" * 200, "C:\\new", "null",
]  # fmt: skip


def works(project):
    """Tell that every file of a project parses: Python, YAML, TOML, shell."""
    for name, text in text_of(project).items():
        if name.endswith(".py"):
            compile(text, name, "exec")
        elif name.endswith(".yaml"):
            yaml.safe_load(text)
        elif name.endswith(".sh"):
            run("bash", "-n", name, cwd=project)
        elif name.endswith(".toml") and sys.version_info >= (3, 11):
            import tomllib

            tomllib.loads(text)
    return True


def outcome(folder, **answers):
    """Render; return the project, or None where the answer was refused in one line with nothing written."""
    done = render(folder, expect=None, **answers)
    left = list(folder.iterdir())
    if done.returncode == 0:
        (project,) = left
        return project
    assert not left
    by_cookiecutter = "already exists" in done.stdout or "jinja2.exceptions" in done.stderr
    by_us = re.fullmatch(r"(\w+: found .*, expected [^\n]+\n)+", done.stderr)
    assert by_us or by_cookiecutter, done.stderr + done.stdout
    return None


@pytest.mark.parametrize("name", FOLDERS + BLANKS)
def test_project_names(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    project = outcome(inner, proj_name=name)
    assert list(tmp_path.iterdir()) == [inner]
    assert (project is not None) == (name in FOLDERS[:6] or name == "{{ 7 * 7 }}")
    assert project is None or (works(project) and f"# {project.name}\n" in (project / "README.md").read_text())


@pytest.mark.parametrize("name", PACKAGES + BLANKS)
def test_package_names(tmp_path, name):
    project = outcome(tmp_path, package_name=name)
    assert (project is not None) == (name in PACKAGES[:4])
    assert project is None or (works(project) and (project / name / "trainers").exists())


@pytest.mark.parametrize("name", ["config", "launch", "nn"])
def test_a_package_named_as_the_code_names_something_else(tmp_path, name):
    project = bake(tmp_path, package_name=name)
    short = "--config configs/default.yaml --gpu_ids -1 --progress.epoch 1 --progress.iters_per_epoch 1 --name".split()
    python("train.py", *short, "trained", cwd=project)
    python("plain_loop.py", *short, "plain", cwd=project)


@pytest.mark.parametrize("text", TEXTS + BLANKS)
def test_descriptions_and_authors(tmp_path, text):
    project = outcome(tmp_path, description=text, author=text)
    if project is None:
        assert not text.isprintable() or text != text.strip() or not text or "{" in text or len(text) > 200
        return
    shown = "49" if text == "{{ 7 * 7 }}" else text
    assert works(project)
    assert f"\n> {shown}\n" in (project / "README.md").read_text()
    assert re.search(rf"Copyright \(c\) \d{{4}} {re.escape(shown)}\n", (project / "LICENSE").read_text())
    assert not list(tmp_path.rglob("left"))


@pytest.mark.parametrize("question", ["license", "rooms", "ops"])
@pytest.mark.parametrize("choice", ["", "GPL", "mit", "MIT'", "{{ 1 }}"])
def test_choices(tmp_path, question, choice):
    assert render(tmp_path, expect=1, **{question: choice}).returncode
    assert not list(tmp_path.iterdir())


def test_every_library_of_a_project_is_a_taken_name():
    lines = [line for path in SOURCE.glob("requirements*.txt") for line in path.read_text().splitlines()]
    required = {re.match(r"[\w.-]+", line)[0] for line in lines}
    owners = importlib.metadata.packages_distributions()
    names = {name for name, owned in owners.items() if required & {owner.lower() for owner in owned}}
    assert {"torch", "yaml", "PIL", "jsonargparse"} <= names
    hook = (ROOT / "hooks/pre_gen_project.py").read_text()
    assert not {name for name in names if name[0].isalpha() and not re.search(rf"\b{name}\b", hook)}


def test_every_library_that_torch_imports_is_a_taken_name():
    known = {*re.findall(r"\w+", (ROOT / "hooks/pre_gen_project.py").read_text()), *sys.stdlib_module_names, "common"}
    unknown = set()
    for path in Path(importlib.util.find_spec("torch").origin).parent.rglob("*.py"):
        text = path.read_text(errors="replace")
        if set(re.findall(r"^\s*(?:import|from)\s+([A-Za-z]\w*)", text, re.MULTILINE)) - known:
            nodes = list(ast.walk(ast.parse(text)))
            names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
            names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
            unknown |= {name for name in (name.split(".")[0] for name in names) if name[0] != "_"} - known
    assert not unknown


def test_what_installed_libraries_require_is_a_taken_name(tmp_path):
    info = tmp_path / "loguru-1.0.dist-info"  # another release, which requires what no list names
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loguru\nVersion: 1.0\nRequires-Dist: glow-worm>=1\n")
    settings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = render(tmp_path, expect=1, env=settings, package_name="glow_worm")
    assert "package_name: found 'glow_worm', expected a free name" in done.stderr
    render(tmp_path, package_name="glow_worm")
