#!/bin/sh
# Builds and installs the operators in custom/ops: sh scripts/install_ops.sh [--target folder, or other flags of pip]
# FORCE_CUDA=1 compiles for CUDA on a machine without a GPU, TORCH_CUDA_ARCH_LIST="8.0;9.0" names the architectures,
# DEBUG=1 adds symbols.
set -e
cd "$(dirname "$0")/.."
python -c 'import setuptools, wheel' 2>/dev/null || python -m pip install --quiet setuptools wheel
exec python -m pip install --no-build-isolation --no-deps --force-reinstall "$@" ./custom/ops
