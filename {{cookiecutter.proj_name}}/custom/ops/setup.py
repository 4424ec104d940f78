"""Build the operators ahead of time: sh scripts/install_ops.sh.

``FORCE_CUDA=1`` compiles the CUDA sources without a look at the machine, ``DEBUG=1`` adds symbols, and
``TORCH_CUDA_ARCH_LIST="8.0;9.0"`` names the architectures.
"""

import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

sys.path.insert(0, str(Path(__file__).resolve().parent))

from flags import compile_flags, find_sources

FOLDER = Path(__file__).resolve().parent
name = f"{FOLDER.parent.name}_ops_library"
sources, with_cuda = find_sources(FOLDER)
extension = CUDAExtension if with_cuda else CppExtension
setup(
    name=name,
    version="0.1",
    packages=[],
    py_modules=[],
    ext_modules=[
        extension(name, sources, extra_compile_args=compile_flags(with_cuda), py_limited_api=True),
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
