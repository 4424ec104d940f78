"""Every command that a README gives is run here, or stands in a short list with the reason why not."""

import re
import sys

import pytest
from conftest import ROOT, SOURCE, bake, run

NOT_RUN = {
    "README.md": {
        "make test": "it is what runs this test",
    },
    f"{SOURCE.name}/README.md": {
        "pip install -r requirements.txt": "the environment of this test was made from it",
    },
}


def commands(readme):
    """Return the commands in the bash blocks of a README, in order; a line that ends in a backslash goes on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [line for line in bare if line]


@pytest.mark.parametrize("readme", NOT_RUN)
def test_only_commands_that_are_there_are_left_out(readme):
    assert set(NOT_RUN[readme]) <= set(commands(ROOT / readme))


def run_all(readme, folder):
    """Run a README's commands one after the other, in one shell, from a folder."""
    script = [line for line in commands(ROOT / readme) if line not in NOT_RUN[readme]]
    assert script
    run("bash", "-exc", "\n".join(script), cwd=folder)


@pytest.fixture
def clone(template_copy, tmp_path, monkeypatch):
    """A clone of the template in which make finds this environment, and takes it as installed."""
    run("git", "clone", "-q", template_copy, tmp_path / "template", cwd=tmp_path)
    monkeypatch.setenv("MAKEFLAGS", f"-o {sys.prefix}/.installed VENV={sys.prefix}")
    return tmp_path / "template"


def test_the_demo_twice(clone):
    run("make", "demo", cwd=clone)
    said = run("make", "demo", cwd=clone).stdout.split("On the validation set:\n")[1]
    assert float(re.search(r"best +accuracy ([\d.]+)", said)[1]) >= 0.97
    for folder in re.findall(r"demo/\S+", said):
        assert list((clone / folder).iterdir())
    assert "tensorboard --logdir demo/my_project/experiments/digits/event" in said
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_the_commands_of_the_template(clone):
    run_all("README.md", clone)


def test_the_commands_of_the_project(tmp_path):
    run_all(f"{SOURCE.name}/README.md", bake(tmp_path))
