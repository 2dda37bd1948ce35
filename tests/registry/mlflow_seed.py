"""Fills an MLflow: two versions of a model with runs, data sets and files, and one of a logged model (MLflow 3).

Runs in MLflow's own environment. Argument: the server's URI.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.tracking import MlflowClient

mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
client.create_registered_model("income")
frame = pd.DataFrame({"age": [1, 2, 3], "label": [0, 1, 0]})
train = mlflow.data.from_pandas(frame, source="s3://bank/train.parquet", name="Loans")
test = mlflow.data.from_pandas(frame.head(2), source="s3://bank/test.parquet", name="Held out")
for number in (1, 2):
    with mlflow.start_run(tags={"mlflow.source.git.commit": "c0ffee"}) as run:
        mlflow.log_params({"depth": 3 + number})
        mlflow.log_input(train, context="training")
        mlflow.log_metric("roc_auc", 0.5, step=1)
        mlflow.log_metric("roc_auc", 0.9 + number / 100, step=2)
        mlflow.log_metric("loss", float("nan"))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model.py").write_text(f"weights = {number}\n")
            Path(folder, "sub ü").mkdir()
            Path(folder, "sub ü", "w.bin").write_bytes(bytes(range(256)) * 5000)
            mlflow.log_artifacts(folder, "model")
    tags = {"team": "credit", "tidegate.risk": "high"}
    client.create_model_version("income", f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags)
client.set_registered_model_alias("income", "champion", "2")
with mlflow.start_run() as run:
    logged = mlflow.initialize_logged_model(name="modern")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "MLmodel").write_text("flavors: {}\n")
        client.log_model_artifacts(logged.model_id, folder)
    mlflow.finalize_logged_model(logged.model_id, "READY")
    mlflow.log_metric("f1", 0.5, model_id=logged.model_id, dataset=test)
client.create_registered_model("modern's")
client.create_model_version("modern's", f"models:/{logged.model_id}", run.info.run_id, model_id=logged.model_id)
