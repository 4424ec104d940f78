"""Finishes a new project: drops what was not asked for, renames the package, begins the history."""

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


# What belongs to some examples alone. All else is in every project.
PARTS = {
    "digits": """
        custom/datasets/digits_dataset.py data/digits/README.md data/digits/digits.npz
        tests/tests_custom/test_digits_dataset.py
    """,
    "accuracy": """
        custom/metrics/accuracy_metric.py tests/tests_custom/test_accuracy_metric.py
    """,
    "classify": """
        custom/tasks/classify_image.py
    """,
    "classify_digits": """
        tests/tests_custom/tasks/test_classify_image.py
    """,
    "classification": """
        configs/default.yaml configs/eval.yaml configs/fashion_mnist.yaml custom/datasets/fashion_mnist_dataset.py
        custom/losses/cross_entropy_loss.py custom/models/digits_model.py tests/tests_custom/test_commands.py
        tests/tests_custom/test_cross_entropy_loss.py tests/tests_custom/test_digits_model.py
        tests/tests_custom/test_fashion_mnist_dataset.py tests/tests_custom/test_plain_loop.py
    """,
    "segmentation": """
        configs/segmentation.yaml configs/eval_segmentation.yaml configs/carvana.yaml custom/datasets/carvana_dataset.py
        custom/datasets/shapes_dataset.py custom/losses/bce_dice_loss.py custom/metrics/pixel_accuracy_metric.py
        custom/models/unet_model.py custom/models/unet_plus_plus_model.py tests/tests_custom/test_carvana_dataset.py
        tests/tests_custom/test_segmentation.py tests/tests_custom/test_shapes_dataset.py
        tests/tests_custom/test_unets.py custom/tasks/segment_image.py tests/tests_custom/tasks/test_segment_image.py
    """,
    "images": """
        configs/images.yaml configs/eval_images.yaml custom/datasets/photos_dataset.py
        tests/tests_custom/test_images.py
    """,
    "language": """
        configs/language.yaml configs/eval_language.yaml custom/datasets/text_dataset.py
        custom/losses/next_token_loss.py custom/metrics/bits_per_byte_metric.py custom/models/gpt_model.py
        custom/testers/language_tester.py custom/trainers/language_trainer.py tests/tests_custom/test_language.py
        custom/tasks/continue_text.py tests/tests_custom/tasks/test_continue_text.py
    """,
    "gan": """
        configs/gan.yaml configs/eval_gan.yaml custom/losses/wasserstein_loss.py custom/metrics/frechet_metric.py
        custom/models/feature_model.py custom/models/gan_model.py custom/testers/gan_tester.py
        custom/trainers/gan_trainer.py tests/tests_custom/test_gan.py
    """,
    "pictures": """
        custom/testers/image_tester.py custom/trainers/image_trainer.py plain_loop.py
        tests/tests_custom/test_image_tester.py
    """,
    "minimal": """
        configs/minimal.yaml configs/eval_minimal.yaml custom/models/linear_model.py
        tests/tests_custom/test_minimal.py
    """,
}
KEPT = {
    "classification": {"digits", "accuracy", "classify", "classify_digits", "classification", "pictures"},
    "images": {"accuracy", "classify", "images", "pictures"},
    "segmentation": {"segmentation", "pictures"},
    "language": {"language"},
    "gan": {"digits", "accuracy", "gan"},
    "minimal": {"digits", "accuracy", "classify", "classify_digits", "minimal", "pictures"},
    "all": set(PARTS),
}
# The folders of each room, and of the sample operators. In configs/*.yaml, a line that ends in "# room: <rooms>" needs
# all of these rooms, and so does a whole file that begins with such a line. In requirements.txt and pyproject.toml,
# "# for <rooms>" stands behind what only these rooms need.
ROOMS = {room: f"common/{room} tests/tests_common/{room}" for room in ANSWERS["__every_room"].split()}
ROOMS["deploy"] += """
    common/export common/serve tests/tests_common/export tests/tests_common/serve
    predict.py export.py serve.py custom/tasks tests/tests_custom/tasks tests/browser.py
    requirements-deploy.txt notebook.ipynb
"""
OPS = "custom/ops tests/tests_custom/ops scripts/install_ops.sh"


def git(*args, cwd=PROJECT):
    """Run git, asking nothing; return what it printed, or None where it failed or is missing."""
    try:
        done = subprocess.run(["git", *args], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
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


def choose_example(example):
    """Remove the other examples; the files of a lone one get the names that every project has."""
    for part in PARTS.keys() - KEPT[example]:
        for name in PARTS[part].split():
            Path(name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.removedirs(Path(name).parent)
    if not Path("configs/default.yaml").exists():
        rename_parts(example)


def rename_parts(example):
    """Give the files of a lone example the names that every project has, and name them so where they are named."""
    new = {f"configs/{example}.yaml": "configs/default.yaml", f"configs/eval_{example}.yaml": "configs/eval.yaml"}
    new[f"base: {example}.yaml"] = "base: default.yaml"
    for path in list(Path("configs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        path.unlink()
        renamed = re.sub("|".join(map(re.escape, new)), lambda name: new[name[0]], text)
        Path(new.get(path.as_posix(), path)).write_text(renamed, "utf-8")


def remove(names):
    """Remove files and whole folders."""
    for name in names.split():
        shutil.rmtree(name, ignore_errors=True)
        Path(name).unlink(missing_ok=True)


def leave_out(missing):
    """Remove rooms, and what needs them in the configs and the requirements."""
    for room in missing:
        remove(ROOMS[room])
    for path in Path("configs").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not named_rooms(line, "room:") & missing]
        if lines[:1] != kept[:1] and lines[0].startswith("# room:"):
            path.unlink()
        elif kept != lines:
            path.write_text(re.sub(r"\n{3,}", "\n\n", "".join(kept)), encoding="utf-8")
    for path in (Path("requirements.txt"), Path("pyproject.toml")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not named_rooms(line, "for") or named_rooms(line, "for") - missing]
        path.write_text("".join(kept), encoding="utf-8")


def named_rooms(line, word):
    """Return the rooms that the comment at the end of a line names behind a word."""
    return set(line.partition(f"# {word} ")[2].strip().split(", ")) - {""}


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
    choose_example(ANSWERS["example"])
    leave_out(ROOMS.keys() - ANSWERS["__rooms"].split())
    if ANSWERS["ops"] == "no":
        remove(OPS)
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
