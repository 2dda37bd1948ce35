"""What a feature plan costs: 28 columns, 20 numbers imputed and standardised, 8 texts one-hot.

    python -m bench.features [--sklearn]

CPU time of this process, the least of several repetitions. `--sklearn` times the same pipeline in scikit-learn.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import time
from collections.abc import Callable

from governance.features.reading import parse

NUMBERS = [f"n{at}" for at in range(20)]
TEXTS = [f"c{at}" for at in range(8)]
CATEGORIES = ["alpha", "beta", "gamma", "delta", "epsilon"]
ROWS = 5000


def plan() -> bytes:
    lines = ["schema_version: tidegate.features/1", "inputs:"]
    lines += [*(f"  {name}: number" for name in NUMBERS), *(f"  {name}: string" for name in TEXTS)]
    lines += ["steps:", "  - impute:", *(f"      {name}: {{fill: 1.5}}" for name in NUMBERS)]
    lines += ["  - standardise:", *(f"      {name}: {{mean: 1.25, scale: 3.1}}" for name in NUMBERS)]
    listed = ", ".join(CATEGORIES)
    lines += ["  - one_hot:", *(f"      {name}: {{categories: [{listed}], unknown: ignore}}" for name in TEXTS)]
    lines += [f"outputs: {{features: {{columns: [{', '.join(NUMBERS + TEXTS)}]}}}}"]
    return "\n".join(lines).encode()


def table(rng: random.Random) -> list[dict[str, float | str | None]]:
    return [
        {
            **{name: rng.random() if rng.random() < 0.9 else None for name in NUMBERS},
            **{name: rng.choice([*CATEGORIES, "zeta"]) for name in TEXTS},
        }
        for _ in range(ROWS)
    ]


def cost(act: Callable[[], object], times: int) -> float:
    """CPU microseconds of one call."""
    best = math.inf
    for _ in range(7):
        began = time.process_time()
        for _ in range(times):
            act()
        best = min(best, (time.process_time() - began) / times)
    return best * 1e6


def columns_of(rows: list[dict[str, float | str | None]]) -> list[tuple[str, bytes]]:
    numbers = [
        ("FP64", struct.pack(f"<{len(rows)}d", *(math.nan if row[name] is None else row[name] for row in rows)))
        for name in NUMBERS
    ]
    words = [[str(row[name]).encode() for row in rows] for name in TEXTS]
    return [*numbers, *(("BYTES", b"".join(struct.pack("<I", len(one)) + one for one in column)) for column in words)]


def sklearn(rows: list[dict[str, float | str | None]]) -> None:
    import pandas as pd  # noqa: PLC0415 - only when asked for
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    data = pd.DataFrame(rows)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    whole = ColumnTransformer([("n", numbers, NUMBERS), ("c", OneHotEncoder(handle_unknown="ignore"), TEXTS)]).fit(data)
    one = data.iloc[:1]
    print(f"scikit-learn, one row          {cost(lambda: whole.transform(one), 20):10.1f} us")
    print(f"scikit-learn, {ROWS} rows        {cost(lambda: whole.transform(data), 3):10.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sklearn", action="store_true")
    rows = table(random.Random(1))  # noqa: S311 - data
    text = plan()
    loaded, findings = parse(text, "plan")
    assert loaded is not None, findings
    program, columns = loaded.compiled.program, columns_of(rows)
    assert program.columns(ROWS, columns) == program.rows(rows)
    one, narrow = rows[:1], columns_of(rows[:1])
    print(f"read and compile               {cost(lambda: parse(text, 'plan'), 1):10.1f} us")
    print(f"one row of JSON values         {cost(lambda: program.rows(one), 3000):10.2f} us")
    print(f"one row of columns             {cost(lambda: program.columns(1, narrow), 3000):10.2f} us")
    print(f"{ROWS} rows of JSON values       {cost(lambda: program.rows(rows), 3):10.1f} us")
    print(f"{ROWS} rows of columns           {cost(lambda: program.columns(ROWS, columns), 10):10.1f} us")
    if parser.parse_args().sklearn:
        sklearn(rows)


if __name__ == "__main__":
    main()
