"""`python -m training [--check] [NAME ...]`, as in the package's docstring. Status 1 when a check differs."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from training import anomaly, digits, income, writer
from training.compare import compare
from training.paths import MODEL_REPOSITORY

MODELS: dict[str, ModuleType] = {"income": income, "digits": digits, "anomaly": anomaly, "writer": writer}


def main() -> int:
    """Train what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train the models of model_repository/.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--check", action="store_true", help="compare with the committed metrics, change nothing")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in MODELS]
    if unknown:
        parser.error(f"no model {', '.join(unknown)}: choose of {', '.join(MODELS)}")
    differences = []
    for name in args.names or MODELS:
        print(f"{name}: training", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / name
            draft.mkdir()
            metrics = MODELS[name].train(draft)
            target = MODEL_REPOSITORY / name
            if args.check:
                committed = json.loads((target / "metrics.json").read_text())
                differences += compare(name, committed, metrics, MODELS[name].TOLERANCE)
            else:
                (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
                shutil.copytree(draft, target, dirs_exist_ok=True)
        print(f"{name}: {json.dumps(metrics['versions'])} in {time.monotonic() - began:.0f} s", flush=True)
    for line in differences:
        print(line, file=sys.stderr)
    if args.check and not differences:
        print("every metric is as committed, within its tolerance")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
