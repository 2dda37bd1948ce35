"""What a feature plan costs: 28 columns, 20 numbers imputed and standardised, 8 texts one-hot.

    python -m bench.features [--sklearn]

Then steps that cost most for one value: word pairs of a text to 4,096 buckets, a cubic spline of 8 functions, and a
projection of 20 numbers to 5.

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
WORDS = "The delivery was late and the parcel had been opened, please refund the full amount to my account today."
COSTLY = {
    "n-grams": ("s", "{ngrams: {s: {buckets: 4096, most: 2}}}"),
    "spline": ("n0", "{spline: {n0: {knots: [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8]}}}"),
    "projection": ("p", f"{{project: {{columns: [{', '.join(NUMBERS)}], weights: {[[0.5] * 20] * 5}, into: p}}}}"),
}


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


def costly() -> None:
    columns = ", ".join(f"{name}: number" for name in NUMBERS)
    row = {"s": WORDS, **dict.fromkeys(NUMBERS, 2.5)}
    for name, (output, step) in COSTLY.items():
        text = f"schema_version: tidegate.features/1\ninputs: {{{columns}, s: string}}\nsteps: [{step}]\n"
        loaded, findings = parse((text + f"outputs: {{x: {{columns: [{output}]}}}}\n").encode(), "plan")
        assert loaded is not None, findings
        program, rows = loaded.compiled.program, [row] * 256
        bare, _ = parse(text.replace(step, "").encode() + b"outputs: {x: {columns: [n0]}}\n", "plan")
        assert bare is not None
        base = bare.compiled.program
        spent = cost(lambda made=program, rows=rows: made.rows(rows), 20)  # type: ignore[misc]
        none = cost(lambda made=base, rows=rows: made.rows(rows), 20)  # type: ignore[misc]
        print(f"{name + ', a row':31}{(spent - none) / 256:10.2f} us")


def sklearn(rows: list[dict[str, float | str | None]]) -> None:
    import pandas as pd  # noqa: PLC0415 - only when asked for
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    data = pd.DataFrame(rows)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    whole = ColumnTransformer([("n", numbers, NUMBERS), ("c", OneHotEncoder(handle_unknown="ignore"), TEXTS)]).fit(data)
    one = data.iloc[:1]
    print(f"scikit-learn, one row          {cost(lambda: whole.transform(one), 20):10.1f} us")
    print(f"scikit-learn, {ROWS} rows        {cost(lambda: whole.transform(data), 3):10.1f} us")
    counter = HashingVectorizer(n_features=4096, ngram_range=(1, 2))
    several = [WORDS] * 256
    print(f"scikit-learn, n-grams of 256   {cost(lambda: counter.transform(several), 3):10.1f} us")


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
    costly()
    if parser.parse_args().sklearn:
        sklearn(rows)


if __name__ == "__main__":
    main()
