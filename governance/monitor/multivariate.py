"""Whether all columns together are what they were: what none of them shows alone, such as a changed correlation.

Contract: the same tables give the same numbers, whatever the machine's day: draws are seeded. Numpy alone.

`pca_reconstruction`: how far rows lie from the components that the reference's columns move along (nannyml's
"reconstruction error": 65 % of the variance, mean Euclidean distance). Statistic: the mean of what is now. Effect: how
much more than the reference's own, in its standard deviations of a row. p: Welch's, of components of one half of the
reference, what is now against the other half, so that no row is judged by components that it made itself.

`domain_classifier`: how well a classifier tells which table a row is from. Statistic: the area under its ROC curve in
five-fold cross-validation, pairs within folds; effect: 2 area - 1, 0 where it guesses. The classifier is ridge
regression on features, their squares and products: in closed form, so that it can be fitted anew to every permutation
of the labels, which boosted trees could not be in seconds. It sees means, spreads and correlations.

`mmd`: the distance of the tables' means in a space of random Fourier features (Rahimi and Recht 2007) of a Gaussian
kernel, its width the median distance of rows (Gretton et al. 2012, whose unbiased estimate the statistic is). Effect:
its root, 0 to sqrt 2.

The p-values of the last two are of permutations, (1 + at least as large) / (1 + permutations) (Phipson and Smyth 2010):
exact at any number of rows, 0.002 at least. They look at up to `MOST` rows a side, drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erfc, sqrt
from typing import Literal

import msgspec
import numpy as np

from governance.monitor.kinds import Kind
from governance.monitor.matrix import Pair, encoded, features, pairs, standardised
from governance.monitor.scores import Floats
from governance.tables import Table

MOST = 5000
PERMUTATIONS = 499
VARIANCE = 0.65
"""Of the reference, that components explain."""
_SEED = 1
_FOLDS = 5
_RIDGE = 0.1
"""Of the variance of a feature."""
_WIDEST = 600
"""Features of the classifier; wider ones are projected at random."""
_WAVES = 256
"""Random frequencies, of a sine and a cosine each: the kernel is met to 1/sqrt(256)."""
_PAIRS = 1000
"""Rows whose distances give the kernel's width."""

Status = Literal["ok", "insufficient", "no reference"]


Name = Literal["pca_reconstruction", "domain_classifier", "mmd"]
NAMES: tuple[Name, ...] = ("pca_reconstruction", "domain_classifier", "mmd")


class Together(msgspec.Struct, frozen=True):
    """A statistic of all columns."""

    name: Name
    status: Status
    """`insufficient`: too few rows or fewer than two columns; `no reference`: it has no rows."""
    columns: int
    """That were compared."""
    n_reference: int
    """Rows that were looked at."""
    n_current: int
    statistic: float | None
    effect: float | None
    p_value: float | None


Found = tuple[float | None, float | None, float | None]


def compare(reference: Table, current: Table, kinds: Mapping[str, Kind], *, min_rows: int) -> list[Together]:
    """Every statistic.

    Args:
        reference: what is normal.
        current: what is compared with it.
        kinds: of the reference's columns.
        min_rows: of each side.
    """
    columns = pairs(reference, current, kinds)
    n, m = reference.rows, current.rows
    status: Status = "ok"
    if not n:
        status = "no reference"
    elif min(n, m) < min_rows or len(columns) < 2:
        status = "insufficient"
    if status != "ok":
        return [Together(name, status, len(columns), n, m, None, None, None) for name in NAMES]
    rng = np.random.default_rng(_SEED)
    rows = tuple(np.sort(rng.permutation(side)[:MOST]).tolist() for side in (n, m))
    sampled = len(rows[0]), len(rows[1])
    seen = features(columns, (rows[0], rows[1]))
    labels = np.zeros((sum(sampled), 1 + PERMUTATIONS))
    labels[sampled[0] :, 0] = 1.0
    for at in range(1, 1 + PERMUTATIONS):
        labels[:, at] = rng.permutation(labels[:, 0])
    return [
        Together("pca_reconstruction", "ok", len(columns), n, m, *_reconstruction(columns, rng)),
        Together("domain_classifier", "ok", len(columns), *sampled, *_classified(seen, labels, rng)),
        Together("mmd", "ok", len(columns), *sampled, *_distance(seen, labels, rng)),
    ]


def _reconstruction(columns: Sequence[Pair], rng: np.random.Generator) -> Found:
    a, b = encoded(columns)
    before, now = _errors(a, (a, b))
    spread = float(before.std(ddof=1))
    effect = float(now.mean() - before.mean()) / spread if spread > 0 else None
    if len(a) < 4:  # a half of one row has no variance
        return float(now.mean()), effect, None
    order = rng.permutation(len(a))
    fitted, held = a[order[: len(a) // 2]], a[order[len(a) // 2 :]]
    unseen, now_too = _errors(fitted, (held, b))
    error = sqrt(unseen.var(ddof=1) / len(unseen) + now_too.var(ddof=1) / len(now_too))
    p = erfc(abs(float(now_too.mean() - unseen.mean())) / error / sqrt(2)) if error > 0 else None
    return float(now.mean()), effect, p


def _errors(fitted: Floats, sides: Sequence[Floats]) -> list[Floats]:
    """The distance of each row from the components of other rows."""
    middle = fitted.mean(axis=0)
    values, vectors = np.linalg.eigh((fitted - middle).T @ (fitted - middle))
    shares = np.cumsum(values[::-1]) / max(values.sum(), 1e-300)
    kept = vectors[:, ::-1][:, : int(np.searchsorted(shares, VARIANCE, side="right")) + 1]
    return [np.linalg.norm((x - middle) - (x - middle) @ kept @ kept.T, axis=1) for x in sides]


def _classified(seen: Floats, labels: Floats, rng: np.random.Generator) -> Found:
    x = _quadratic(seen, rng)
    if not x.shape[1]:
        return 0.5, 0.0, 1.0
    y = labels - labels.mean(axis=0)
    fold = rng.permutation(len(x)) % _FOLDS
    gram, moment = x.T @ x, x.T @ y
    above, of = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for at in range(_FOLDS):
        held = x[fold == at]
        ridge = _RIDGE * (len(x) - len(held)) * np.eye(x.shape[1])
        told = held @ np.linalg.solve(gram - held.T @ held + ridge, moment - held.T @ y[fold == at])
        truth = labels[fold == at]
        positives = truth.sum(axis=0)
        above += (_mid_ranks(told) * truth).sum(axis=0) - positives * (positives + 1) / 2
        of += positives * (len(held) - positives)
    areas = above / np.maximum(of, 1.0)
    return float(areas[0]), float(2 * areas[0] - 1), _permuted(areas)


def _quadratic(seen: Floats, rng: np.random.Generator) -> Floats:
    """Features, their squares and products, as far as there is room."""
    width = seen.shape[1]
    if width > _WIDEST:
        return standardised(seen @ rng.normal(size=(width, _WIDEST)))
    if width * (width + 3) // 2 <= _WIDEST:
        one, other = np.triu_indices(width)
        return standardised(np.hstack((seen, seen[:, one] * seen[:, other])))
    return standardised(np.hstack((seen, seen**2))) if 2 * width <= _WIDEST else seen


def _mid_ranks(values: Floats) -> Floats:
    """Ranks from 1 in each column, those of equal ones their mean."""
    found = np.empty_like(values)
    for at, column in enumerate(values.T):
        ordered = np.sort(column)
        found[:, at] = (np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right") + 1) / 2
    return found


def _distance(seen: Floats, labels: Floats, rng: np.random.Generator) -> Found:
    if not seen.shape[1]:
        return 0.0, 0.0, 1.0
    some = seen[rng.permutation(len(seen))[: 2 * _PAIRS]]
    half = len(some) // 2
    width = float(np.median(np.linalg.norm(some[:half] - some[half : 2 * half], axis=1))) or 1.0
    angles = seen @ rng.normal(scale=1 / width, size=(seen.shape[1], _WAVES))
    waves = np.hstack((np.cos(angles), np.sin(angles))) / sqrt(_WAVES)  # of length 1
    m = labels.sum(axis=0)
    n = len(labels) - m
    b = labels.T @ waves
    a = waves.sum(axis=0) - b
    within = ((a * a).sum(axis=1) - n) / (n * (n - 1)) + ((b * b).sum(axis=1) - m) / (m * (m - 1))
    squared = within - 2 * (a * b).sum(axis=1) / (n * m)
    return float(squared[0]), sqrt(max(0.0, float(squared[0]))), _permuted(squared)


def _permuted(values: Floats) -> float:
    """The first one's p among those of permutations; what rounding alone tells apart counts as equal."""
    at_least = values[1:] >= values[0] - 1e-12
    return float((1 + at_least.sum()) / (1 + len(at_least)))
