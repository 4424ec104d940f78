"""A project as a package, in an image, in a notebook: what its files promise, followed in environments of their own."""

import json
import os
import re
import shutil
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import EXAMPLES, ROOT, SOURCE, bake, python, rooms_of, run
from nbclient import NotebookClient

needs_full = pytest.mark.skipif(not os.environ.get("FULL"), reason="FULL=1 runs it: it installs from an index")

# pip's folder of wheels at hand, for uv.
FIND_LINKS = {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with a name that pip writes differently and a package of its own, trained for an epoch."""
    folder = tmp_path_factory.mktemp("packaging")
    project = bake(folder, proj_name="My.Net_1-", package_name="my_net", author='O"Neil \\ 😀', description='a "b" \\c')
    flags = ["--gpu_ids", "-1", "--progress.epoch", "1", "--name", "run"]
    python("train.py", "--config", "configs/default.yaml", *flags, cwd=project)
    return project


@pytest.fixture(scope="module")
def wheel(trained, tmp_path_factory):
    """The wheel of that project."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    python("-m", "pip", "wheel", "-q", ".", *flags, cwd=trained)
    (path,) = folder.iterdir()
    return path


def environment(folder, fresh=False):
    """Make a virtual environment, which sees the packages of this one unless it is to be fresh; return its bin/."""
    venv.create(folder, with_pip=fresh, symlinks=True)
    if not fresh:
        (site,) = folder.glob("lib/*/site-packages")
        (site / "other.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


def write_picture(folder):
    """Write a picture to predict from."""
    from PIL import Image

    Image.new("L", (8, 8), 100).save(folder / "picture.png")


def predicts(bin, trained, folder):
    """Check that the installed commands and the installed class predict, far from the project."""
    write_picture(folder)
    model = trained / "experiments/run"
    words = ["--model_pt", model, "--gpu_ids", "-1", "--input", "picture.png"]
    said = run(bin / "My.Net_1--predict", *words, cwd=folder).stdout
    assert re.fullmatch(r"picture.png: \d \(\d+\.\d%\)\n", said)
    code = "import sys; from common.deploy.predictor import Predictor\n"
    code += (
        "print(Predictor.from_checkpoint(sys.argv[1], 'cpu')('picture.png')['class'], sys.modules['my_net'].__file__)"
    )
    answer, package = run(bin / "python", "-c", code, model, cwd=folder).stdout.split()
    assert answer == said.split()[1] and Path(package).is_relative_to(bin.parent)
    assert "--port" in run(bin / "My.Net_1--serve", "--help", cwd=folder).stdout


def test_what_is_in_a_wheel(trained, wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = Parser().parsestr(file.read(next(name for name in names if name.endswith("/METADATA"))).decode())
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"common", "my_net", "predict.py", "serve.py"}
    listed = run("git", "ls-files", "common", "my_net/*.py", cwd=trained).stdout.split()
    assert {name for name in names if name.startswith("common/")} == {n for n in listed if n.startswith("common/")}
    assert {name for name in listed if not name.startswith("my_net/ops/")} <= names
    assert (metadata["Name"], metadata["Summary"]) == ("My.Net_1", 'a "b" \\c')
    assert metadata["License-Expression"] == "MIT"
    required = [line.partition(";")[::2] for line in metadata.get_all("Requires-Dist")]
    for extra, name in (("", "requirements"), ("deploy", "requirements-deploy"), ("dev", "requirements-dev")):
        found = {
            re.match(r"[\w-]+", line)[0]
            for line, mark in required
            if re.findall(r'"(\w+)"', mark) == [extra] * bool(extra)
        }
        listed = (trained / f"{name}.txt").read_text().splitlines()
        assert found == {re.match(r"[\w-]+", line)[0] for line in listed}


def test_an_installed_wheel_predicts(trained, wheel, tmp_path):
    bin = environment(tmp_path / "installed")
    flags = ["--no-deps", "--no-index", "--no-warn-script-location"]
    python("-m", "pip", "-q", "--python", bin / "python", "install", *flags, wheel, cwd=tmp_path)
    predicts(bin, trained, tmp_path)


@needs_full
def test_a_wheel_in_a_fresh_environment(trained, wheel, tmp_path):
    bin = environment(tmp_path / "fresh", fresh=True)
    run(bin / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    predicts(bin, trained, tmp_path)


@needs_full
def test_uv(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    run(environment(tmp_path / "tools", fresh=True) / "pip", "install", "-q", "uv", cwd=tmp_path)
    with (project / "pyproject.toml").open("a") as file:  # the torch at hand: another one is several gigabytes
        file.write('\n[tool.uv]\nconstraint-dependencies = ["torch==2.13.0"]\n')
    uv, options = tmp_path / "tools/bin/uv", {"cwd": project, "env": FIND_LINKS | os.environ}
    run(uv, "sync", "-q", **options)
    flags = ["--gpu_ids", "-1", "--progress.epoch", "1", "--name", "uv"]
    run(uv, "run", "train.py", "--config", "configs/default.yaml", *flags, **options)
    write_picture(project)
    words = ["--model_pt", "experiments/uv", "--input", "picture.png"]
    assert "picture.png: " in run(uv, "run", "predict.py", *words, **options).stdout


def test_the_dockerfile(trained):
    text = (trained / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    steps = [line.split(maxsplit=1) for line in filter(None, lines)]
    words = [step[0] for step in steps]
    assert words == "FROM ARG COPY RUN RUN USER WORKDIR COPY ENV EXPOSE CMD".split()
    for source in steps[words.index("COPY")][1].split()[:-1]:
        assert (trained / source).is_file(), source
    for word, rest in steps:
        if word == "RUN":
            run("bash", "-n", "-c", rest, cwd=trained)
    command = json.loads(steps[-1][1])
    assert (trained / command[1]).is_file() and (trained / command[3]).is_file()
    assert "cpu" in steps[words.index("ARG")][1] and "://" not in text
    kept = {path.name for path in trained.iterdir()} - set((trained / ".dockerignore").read_text().splitlines())
    assert {"common", "my_net", "configs", "data", "train.py", "serve.py"} <= kept
    assert not {".git", "experiments", "tests"} & kept


@needs_full
def test_the_dockerfile_installs(trained, tmp_path):
    """Its line that installs, in an environment instead of an image, with the torch at hand."""
    (step,) = re.findall(r"^RUN (pip install.*(?:\n    .*)+)", (trained / "Dockerfile").read_text(), re.MULTILINE)
    bin = environment(tmp_path / "image", fresh=True)
    step = step.replace("\\\n", " ").replace("/tmp/", f"{trained}/").replace("--system", f"--python {bin}/python")
    step = step.replace('--torch-backend "$TORCH"', f"-c {ROOT}/constraints.txt")
    settings = {**FIND_LINKS, **os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    run("bash", "-ec", step, cwd=tmp_path, env=settings)
    assert not (bin / "uv").exists()
    write_picture(tmp_path)
    words = ["predict.py", "--model_pt", "experiments/run", "--input", tmp_path / "picture.png"]
    run(bin / "python", *words, cwd=trained)
    run(bin / "python", "-c", "import fastapi, onnxscript, safetensors, uvicorn", cwd=trained)


@pytest.mark.parametrize("example", ["classification", "minimal"])
def test_rooms_that_are_left_out(tmp_path, example):
    project = bake(tmp_path, example=example, rooms="none")
    config = tomllib.loads((project / "pyproject.toml").read_text())
    assert config["project"]["scripts"] == {} and config["tool"]["setuptools"]["py-modules"] == []
    assert set(config["tool"]["setuptools"]["dynamic"]["optional-dependencies"]) == {"dev"}
    assert "deploy" not in (project / "Dockerfile").read_text() + (project / "pyproject.toml").read_text()
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path]
    python("-m", "pip", "wheel", "-q", ".", *flags, cwd=project)
    assert list(tmp_path.glob("*.whl"))


def test_the_conda_environment(trained):
    environment = yaml.safe_load((trained / "environment.yml").read_text())
    assert environment["name"] == trained.name
    (packages,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert packages == ["-r requirements.txt"] and (trained / "requirements.txt").is_file()


def execute(notebook, folder):
    """Run a notebook in a folder; return what its cells print, and how many pictures they show."""
    settings = {**os.environ, "PIP_NO_INDEX": "1", "CUDA_VISIBLE_DEVICES": ""}
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}})
    client.execute(env=settings)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    return "".join(output.get("text", "") for output in outputs), pictures


def test_the_notebook(tmp_path):
    project = bake(tmp_path)
    notebook = nbformat.read(project / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells) and len(notebook.cells) <= 9
    said, pictures = execute(notebook, project)
    assert pictures == 2
    assert "notebook.pt2: written; its outputs differ from the checkpoint's by" in said
    assert (project / "experiments/notebook/checkpoints/final.pt").exists()


def test_the_notebook_begins_without_a_project(tmp_path, template_copy):
    notebook = nbformat.read(SOURCE / "notebook.ipynb", as_version=4)
    notebook.cells = notebook.cells[:2]
    notebook.cells[1].source = notebook.cells[1].source.replace('TEMPLATE = ""', f'TEMPLATE = "{template_copy}"')
    execute(notebook, tmp_path)
    assert (tmp_path / "my_project/train.py").exists()


@needs_full
@pytest.mark.parametrize("example", [example for example in EXAMPLES[1:] if "deploy" in rooms_of(example)])
def test_the_notebook_of_another_example(tmp_path, example):
    project = bake(tmp_path, example=example)
    notebook = nbformat.read(project / "notebook.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("--name notebook", "--name notebook --progress.epoch 1")
    execute(notebook, project)
    assert (project / "results/notebook.pt2").exists()
