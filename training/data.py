"""The data sets as arrays, split as training and tests share it. Sources and licences: data/README.md."""

from __future__ import annotations

import csv
import io
import json
import lzma
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.paths import DATA, MODEL_REPOSITORY, SEED

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

INCOME_COLUMNS = MODEL_REPOSITORY / "income" / "columns.json"

LEARN_UNTIL = 1980
"""The last year that `anomaly` learns from."""
EL_NINOS = (("1982-07", "1983-09"), ("1987-01", "1987-09"), ("1997-04", "1998-08"))
"""The El Niño events after 1980 that warmed this coast, first and last month: what should be found."""


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows held out; `X` [n, ...] FP32, `y` [n] INT64."""

    X_train: Floats
    y_train: Integers
    X_test: Floats
    y_test: Integers


def income() -> Split:
    """Census income: X [n, 14] in the encoding of columns.json, y = 1 for more than 50K; UCI's own split."""
    rows = _table("adult.csv.xz")
    columns = json.loads(INCOME_COLUMNS.read_text())["columns"]
    X = np.array([[_encode(column, row[column["name"]]) for column in columns] for row in rows], np.float32)
    y = np.array([row["income"] == ">50K" for row in rows], np.int64)
    train = np.array([row["split"] == "train" for row in rows])
    return Split(X[train], y[train], X[~train], y[~train])


def income_vocabulary() -> dict[str, Any]:
    """What columns.json says: the 14 columns in order, and the codes of categories (0 is unknown)."""
    rows = _table("adult.csv.xz")
    numbers = {"age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"}
    names = [name for name in rows[0] if name not in {"income", "split"}]
    columns: list[dict[str, Any]] = []
    for name in names:
        if name in numbers:
            columns.append({"name": name, "kind": "number"})
        else:
            values = sorted({row[name] for row in rows} - {"?"})
            columns.append({"name": name, "kind": "category", "codes": {v: i + 1 for i, v in enumerate(values)}})
    return {"unknown_code": 0, "columns": columns}


def _encode(column: dict[str, Any], text: str) -> float:
    return float(text) if column["kind"] == "number" else float(column["codes"].get(text, 0))


def digits() -> Split:
    """Handwritten digits: X [n, 8, 8] with 0 to 16 a pixel, y 0 to 9; the last 360 of 1797 are held out.

    The file is in the order of its writers, so the last rows are hands the model has not seen.
    """
    rows = _table("digits.csv.xz")
    X = np.array([[float(v) for k, v in row.items() if k != "digit"] for row in rows], np.float32).reshape(-1, 8, 8)
    y = np.array([int(row["digit"]) for row in rows], np.int64)
    return Split(X[:-360], y[:-360], X[-360:], y[-360:])


def sea_temperatures() -> tuple[Integers, Integers, Floats]:
    """Monthly sea surface temperature off Peru, 1950 to 2010: year, month, degrees Celsius; [732] each."""
    rows = _table("elnino.csv")
    return (
        np.array([int(row["year"]) for row in rows], np.int64),
        np.array([int(row["month"]) for row in rows], np.int64),
        np.array([float(row["temperature"]) for row in rows], np.float32),
    )


def el_nino(years: Integers, months: Integers) -> NDArray[np.bool_]:
    """Whether each month lies in one of EL_NINOS."""
    stamp = years * 12 + months
    wanted = np.zeros(len(stamp), bool)
    for first, last in EL_NINOS:
        a, b = (int(text[:4]) * 12 + int(text[5:]) for text in (first, last))
        wanted |= (stamp >= a) & (stamp <= b)
    return wanted


def novel() -> tuple[str, str]:
    """Moby Dick as (text to learn from, text held out): of blocks of 20,000 characters, each tenth."""
    text = lzma.decompress((DATA / "moby_dick.txt.xz").read_bytes()).decode()
    text = "\n".join(" ".join(part.split()) for part in text.replace("\r", "").split("\n\n") if part.strip())
    blocks = [text[i : i + 20_000] for i in range(0, len(text), 20_000)]
    learn = "".join(block for i, block in enumerate(blocks) if i % 10 != 9)
    return learn, "".join(block for i, block in enumerate(blocks) if i % 10 == 9)


def generator() -> np.random.Generator:
    """A fresh generator from the common seed."""
    return np.random.default_rng(SEED)


def _table(name: str) -> list[dict[str, str]]:
    raw = (DATA / name).read_bytes()
    return list(csv.DictReader(io.StringIO((lzma.decompress(raw) if name.endswith(".xz") else raw).decode())))
