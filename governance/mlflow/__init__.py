"""Model versions of an MLflow registry: read with their evidence, and told what became of them.

    rest.py       MLflow's REST API, over HTTP alone
    dvc.py        digests of data that DVC keeps
    documents.py  what MLflow says, as evidence and as the beginning of a model card; pure
    importing.py  one version, from MLflow to files that the registry can be bound to
    pushing.py    the registry's state, as tags of MLflow's versions

Nothing here imports MLflow.
"""
