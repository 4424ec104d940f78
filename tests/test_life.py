"""A project's life with its template: asked for, replayed, updated."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT, commit, python, render, run, text_of


def test_questions_are_asked(tmp_path):
    answers = ["asked", "my_net", "", "3", "3", "2", "Ada", "2"]
    shown = python("-m", "cookiecutter", ROOT, cwd=tmp_path, input="\n".join(answers) + "\n").stdout
    prompts = json.loads((ROOT / "cookiecutter.json").read_text())["__prompts__"]
    for prompt in prompts.values():
        for text in prompt.values() if isinstance(prompt, dict) else [prompt]:
            assert text in " ".join(shown.split()), text
    project = tmp_path / "asked"
    assert (project / "my_net/models/unet_model.py").exists()
    assert (project / "common/vision").exists() and not (project / "common/tools").exists()
    assert not (project / "my_net/ops").exists()
    assert "Redistribution" in (project / "LICENSE").read_text() and "Ada" in (project / "LICENSE").read_text()


def test_replay(tmp_path):
    render(tmp_path, proj_name="again", package_name="my_net", author="Ada")
    first = text_of(tmp_path / "again")
    shutil.rmtree(tmp_path / "again")
    python("-m", "cookiecutter", "--replay", ROOT, cwd=tmp_path)
    assert text_of(tmp_path / "again") == first


def test_rendering_over_a_project_keeps_what_is_its_own(tmp_path):
    render(tmp_path, package_name="my_net")
    project = tmp_path / "my_project"
    own = {"my_net/models/own_model.py": "own", "experiments/x/notes": "import custom", "README.md": "changed"}
    for name, text in own.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    python("-m", "cookiecutter", ROOT, "--no-input", "-f", "package_name=my_net", cwd=tmp_path)
    found = text_of(project)
    assert found["my_net/models/own_model.py"] == "own" and found["experiments/x/notes"] == "import custom"
    assert found["README.md"].startswith("# my_project") and "custom/trainers/image_trainer.py" not in found


@pytest.fixture
def upstream(tmp_path, template_copy):
    """The template, in a repository of its own that may be changed."""
    return shutil.copytree(template_copy, tmp_path / "upstream")


def cruft(*arguments, cwd):
    """Run cruft."""
    return python("-m", "cruft", *arguments, cwd=cwd)


def append(path, text):
    """Add text to the end of a file."""
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("package", ["custom", "my_net"])
def test_an_update_from_the_template(tmp_path, upstream, package):
    answers = json.dumps({"package_name": package, "proj_name": "living"})
    cruft("create", upstream, "--no-input", "--extra-context", answers, "--output-dir", tmp_path, cwd=tmp_path)
    project = tmp_path / "living"
    assert run("git", "status", "--porcelain", "--branch", cwd=project).stdout == "## main\n?? .cruft.json\n"
    commit(project, "Where it comes from")
    assert cruft("diff", "--exit-code", cwd=project).stdout == ""

    (project / f"{package}/models/own_model.py").write_text(OWN_MODEL)
    own_config = yaml.safe_load((project / "configs/default.yaml").read_text())
    own_config.update(name="own", model={"type": "OwnModel"})
    (project / "configs/own.yaml").write_text(yaml.safe_dump(own_config))
    append(project / f"{package}/trainers/image_trainer.py", "\n# A thought of one's own.\n")
    commit(project, "Own work")

    source = upstream / "{{cookiecutter.proj_name}}"
    append(source / "common/log/metric.py", "\nNEW = True\n")
    append(source / "README.md", "\nNews about `custom/`.\n")
    (source / "common/news.py").write_text('"""A module that came later."""\n')
    commit(upstream, "News")

    cruft("update", "--skip-apply-ask", cwd=project)
    assert not list(project.rglob("*.rej"))
    assert "<<<<<<<" not in run("git", "diff", "HEAD", cwd=project).stdout
    assert (project / "common/log/metric.py").read_text().endswith("NEW = True\n")
    assert (project / "README.md").read_text().endswith(f"News about `{package}/`.\n")
    assert (project / "common/news.py").exists()
    assert (project / f"{package}/trainers/image_trainer.py").read_text().endswith("# A thought of one's own.\n")
    commit(project, "Update")
    cruft("check", cwd=project)

    if package == "custom":  # test_bake.py runs the tests of a renamed project
        python("-m", "unittest", "discover", "-t", ".", "tests/tests_custom", cwd=project)
    flags = ["--config", "configs/own.yaml", "--gpu_ids", "-1", "--progress.epoch", "1"]
    python("train.py", *flags, cwd=project)
    assert (project / "experiments/own/checkpoints/final.pt").exists()


OWN_MODEL = '''"""A model of one's own."""

from torch import nn

from common.config.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class OwnModel(nn.Module):
    """One linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        """Return the scores of each class."""
        return self.layer(images.flatten(1))
'''
