"""Operators of your own, in C++ and CUDA. Use them by ``custom.ops.func``; ``README.md`` says how to write one."""
