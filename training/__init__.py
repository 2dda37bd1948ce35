"""Trains the models of `model_repository/` from the data in `training/data/`.

    python -m training                 train all, write the ONNX files and metrics.json
    python -m training income          one of them
    python -m training --check         train again, compare with the committed metrics, change nothing

It lives beside the repository and not in it: Triton takes every folder of a model repository for a model.
Needs what requirements/models.lock lists; `training.data` and `training.paths` need numpy alone, so that
tests can read the same held-out rows.
"""
