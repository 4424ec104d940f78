"""The sample operators, built in a fresh project: ahead of time, while developing, and for GPUs that are not there."""

import os
import re
import shutil
import sysconfig

import pytest
from conftest import SOURCE, bake, python, run

compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
has_headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))


@compiler
@pytest.mark.skipif(not has_headers, reason="no headers of Python")
def test_built_ahead_of_time_with_a_new_one(tmp_path):
    project, installed = bake(tmp_path, package_name="my_net"), tmp_path / "installed"
    python("-m", "my_net.ops.new_op", "blend_tiles", cwd=project)
    run("sh", "scripts/install_ops.sh", "--target", installed, cwd=project)
    assert [path.name for path in installed.glob("*.so")] == ["my_net_ops_library.abi3.so"]
    settings = {**os.environ, "PYTHONPATH": str(installed)}
    assert python("my_net/ops/add_matrix.py", cwd=project, env=settings).stdout.startswith("built, on cpu")
    done = python("-m", "pytest", "-rs", "tests/tests_custom/ops", cwd=project, env=settings)
    assert "test_blend_tiles.py" in done.stdout and "not built" not in done.stdout, done.stdout
    page = (project / "my_net" / "ops" / "README.md").read_text()
    (project / "use_ops.py").write_text(re.search(r"```python\n# use_ops.py\n(.*?)```", page, re.DOTALL)[1])
    assert python("use_ops.py", cwd=project, env=settings).stdout == "torch.Size([8, 3])\n"
    python("-m", "my_net.ops.new_op", "not_yet", cwd=project)  # without it being built, the others still work
    assert python("my_net/ops/add_matrix.py", cwd=project, env=settings).stdout.startswith("built, on cpu")
    assert python("use_ops.py", cwd=project, env=settings).stdout == "torch.Size([8, 3])\n"
    done = python("-m", "pytest", "-rs", "tests/tests_custom/ops", cwd=project, env=settings)
    assert "not built: not_yet; sh scripts" in done.stdout and "not built: add_matrix" not in done.stdout, done.stdout
    assert not run("git", "status", "--short", "my_net/ops/build", cwd=project).stdout
    assert "my_net/ops/" in page and "from custom" not in page


@compiler
@pytest.mark.skipif(not shutil.which("ninja"), reason="no ninja")
@pytest.mark.skipif(not has_headers, reason="no headers of Python")
def test_built_while_developing(tmp_path):
    project = bake(tmp_path)
    settings = {**os.environ, "OPS_BUILD": "1", "TORCH_EXTENSIONS_DIR": str(tmp_path / "built")}
    program = ("custom/ops/add_matrix.py",)
    assert python(*program, cwd=project, env=settings).stdout.startswith("built, on cpu")
    source = project / "custom/ops/csrc/add_matrix.cpp"
    source.write_text(source.read_text().replace("px[i] + py[i]", "px[i] - py[i]"))
    assert "[-1., -1., -1.]" in python(*program, cwd=project, env=settings).stdout


def test_unbuilt(tmp_path):
    project = bake(tmp_path)
    assert python("custom/ops/add_matrix.py", cwd=project).stdout.startswith("not built: the reference")
    code = "import torch; from custom.ops.func import add_matrix; add_matrix(torch.ones(1), torch.ones(1))"
    said = python("-c", code, cwd=project, expect=1).stderr.splitlines()[-1]
    assert said == "RuntimeError: add_matrix: not built; build it by: sh scripts/install_ops.sh"


@compiler
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no CUDA toolkit")
@pytest.mark.parametrize("source", sorted(path.name for path in SOURCE.glob("custom/ops/csrc/cuda/*.cu")))
def test_cuda_sources_compile_without_a_gpu(tmp_path, source):
    include = python("-c", "import torch.utils; print(torch.utils.__path__[0])", cwd=tmp_path).stdout.strip()
    include = os.path.join(os.path.dirname(include), "include")
    code = 'from custom.ops.flags import compile_flags;print(*compile_flags(True)["nvcc"])'
    flags = python("-c", code, cwd=SOURCE).stdout.split()
    architectures = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 90)]
    path = SOURCE / "custom/ops/csrc/cuda" / source
    done = run(
        *("nvcc", *flags, *architectures, "-Xcompiler", "-fPIC,-Wall", "-isystem", include),
        *("-c", path, "-o", tmp_path / "kernel.o"),
        cwd=tmp_path,
    )
    assert "warning" not in done.stderr, done.stderr
