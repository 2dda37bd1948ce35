"""Feature plans: raw columns to a model's tensors, as a file that people read and a program that machines run.

`plan.py` is the format, `compiling.py` makes a `kernels.features.Program` of it, `tables.py` runs that over files,
`importing.py` writes a plan from a fitted scikit-learn pipeline, `picture.py` draws one.
"""
