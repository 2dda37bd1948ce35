"""Pure computing: numpy, numba, Cython. No I/O, no asyncio, no knowledge of HTTP or policy.

Each kernel is a package: its `__init__` chooses, `_x_c.pyx` is fast, `_x_py.py` is the specification.
"""
