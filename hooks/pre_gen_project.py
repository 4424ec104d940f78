"""Refuses answers that would break the project: one line each on stderr, before a file is written."""

import builtins
import json
import keyword
import re
import sys

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = """
    common configs data evaluate evaluate_language experiments export plain_loop predict results scripts serve tests
    tests_common tests_custom train train_language
"""
LIBRARIES = """
    absl cfgv contourpy cv2 cycler dateutil distlib docstring_parser filelock fontTools fsspec functorch
    google grpc identify iniconfig isympy jinja2 jsonargparse kiwisolver kornia loguru markdown markupsafe
    matplotlib mpl_toolkits mpmath networkx nodeenv numpy nvidia onnx packaging PIL pip pkg_resources
    platformdirs pluggy pre_commit pygments pylab pyparsing pytest python_discovery ruff scipy setuptools six
    sklearn sympy tensorboard tensorboard_data_server tensorflow tokenizers torch torchaudio torchdata torchgen
    torchmetrics torchvision tqdm triton typeshed_client typing_extensions virtualenv werkzeug wheel yaml
"""
TAKEN = {
    "is a word of Python": [*keyword.kwlist, *keyword.softkwlist, *dir(builtins)],
    "is a module of Python": sys.stdlib_module_names,
    "is a part of every project": PROJECT.split(),
    "is a library that projects use": LIBRARIES.split(),
}


def text_fault(value):
    """Return what is wrong with an answer wherever it lands, or None."""
    if not value.strip():
        return "some text"
    if value != value.strip():
        return "no space at either end"
    if len(value) > 200:
        return "at most 200 characters"
    if not value.isprintable():
        return "one line of printable characters"
    if re.search(r"\{[%#{]", value):
        return "no template code: no brace followed by another brace, % or #"
    return None


def folder_fault(name):
    """Return what is wrong with the project's name, or None."""
    if len(name) > 50:
        return "at most 50 characters"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        return "one folder's name: letters, digits, '.', '_' and '-', first a letter or digit, no '..'"
    return None


def package_fault(name):
    """Return what is wrong with the package's name, or None."""
    if len(name) > 32:
        return "at most 32 characters"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return "a Python identifier: letters, digits and '_', first a letter"
    for whose, names in TAKEN.items():
        if name.lower() in {taken.lower() for taken in names}:
            return f"a free name: this one {whose}"
    return None


def faults():
    """Yield a line for each answer that will not do."""
    answers = {key: value for key, value in ANSWERS.items() if not key.startswith("_")}
    answers["proj_name"] = ANSWERS["__asked_name"]
    checks = {"proj_name": folder_fault, "package_name": package_fault}
    for key, value in answers.items():
        fault = text_fault(value) or checks.get(key, text_fault)(value)
        if fault:
            yield f"{key}: found {value[:60]!a}, expected {fault}"


sys.exit("\n".join(faults()) or 0)
