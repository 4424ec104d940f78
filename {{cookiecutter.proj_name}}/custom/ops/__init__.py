"""Operators of your own, in C++ and CUDA: used by ``func.py``, explained in ``README.md``."""
