"""Evidence that gathers from window to window, and how much of it all columns together have.

Contract: pure functions of arrays with any leading axes. Every score of a column runs in charts, one for each size of
shift (in standard errors) and direction: log-likelihood-ratio CUSUMs, max(0, S + d z - d^2/2), whose exponential is an
e-detector (Shin, Ramdas and Rinaldo 2022). A column's evidence is the logarithm of the mean over its charts, which is
an e-value again. e-BH (Wang and Ramdas 2022) says which columns stand out at a level, under any dependence between
them; `overall` is the smallest level's logarithm at which any does. That alone would promise too few false alarms by
far, so that an alarm's threshold is not the theory's: `calibration` simulates it.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from governance.monitor.scores import LOCATION, MISSING, SHAPE, Floats, Scores

_CHARTS = (
    *((LOCATION, size) for size in (1.0, -1.0, 3.0, -3.0)),
    *((score, size) for score in (SHAPE, MISSING) for size in (1.0, 3.0)),
)
"""Score, and shift that is looked for. Missing values matter when they are more."""
_SCORE = np.array([score for score, _ in _CHARTS])
_SHIFT = np.array([size for _, size in _CHARTS])
_OF_SCORE = [np.flatnonzero(score == _SCORE) for score in (LOCATION, SHAPE, MISSING)]


_KEPT = 0.8
"""Of earlier windows in a column's effect: some five of them count. Charts remember longer, and alone would go on
raising what is long over, or what the reference's own chance has put a little aside for ever."""


class Evidence(NamedTuple):
    """What has gathered."""

    charts: Floats
    """(..., columns, charts)"""
    effects: Floats
    """(..., columns, 4): rows, and effects times rows, older windows forgotten by and by."""


def none(columns: int, *streams: int) -> Evidence:
    """At the beginning."""
    return Evidence(np.zeros((*streams, columns, len(_CHARTS))), np.zeros((*streams, columns, 4)))


def gathered(before: Evidence, now: Scores, rows: Floats, most: Floats | float) -> Evidence:
    """With a window more.

    Args:
        before: what there was.
        now: the window's scores.
        rows: the window's, (...).
        most: that a chart may hold, (...): so that what has gathered for a month is not there for another one.
    """
    most = np.asarray(most)[..., None, None]
    charts = np.clip(before.charts + _SHIFT * now.z[..., _SCORE] - _SHIFT**2 / 2, 0.0, most)
    n = np.broadcast_to(np.asarray(rows)[..., None, None], (*now.z.shape[:-1], 1))
    return Evidence(charts, _KEPT * before.effects + np.concatenate((n, n * now.effect), axis=-1))


def most_of(threshold: Floats | float, columns: int) -> Floats | float:
    """That a chart may hold: so much that it alone reaches the threshold for all columns."""
    return threshold + log(columns * len(_CHARTS))


def by_column(found: Evidence, least: Floats | float) -> Floats:
    """The logarithm of each column's e-value, (..., columns), at least 0; it is 0 where the effect is below `least`."""
    top = found.charts.max(axis=-1)
    rest = np.exp(found.charts - top[..., None]).mean(axis=-1)
    return np.where(effect(found) >= least, top + np.log(rest), 0.0)


def effect(found: Evidence) -> Floats:
    """How far each column is off, on the scale of `scores`: the largest of its three, (..., columns)."""
    mean = found.effects[..., 1:] / np.maximum(found.effects[..., :1], 1.0)
    mean[..., LOCATION] = np.abs(mean[..., LOCATION])
    mean[..., SHAPE] = np.sqrt(np.maximum(mean[..., SHAPE], 0.0))
    return np.asarray(mean.max(axis=-1))


def strongest(found: Evidence) -> npt.NDArray[np.intp]:
    """Which score speaks most in each column: (..., columns)."""
    return np.asarray(np.stack([found.charts[..., each].max(axis=-1) for each in _OF_SCORE], axis=-1).argmax(axis=-1))


def overall(logs: Floats) -> Floats:
    """The maximum over k of ln(k e_(k) / columns), e_(k) the k-th largest: e-BH finds some from exp(-this) on."""
    columns = logs.shape[-1]
    ranked = np.sort(logs, axis=-1)[..., ::-1]
    return np.asarray((ranked + np.log(np.arange(1, columns + 1) / columns)).max(axis=-1))


def standing_out(logs: Floats, threshold: Floats | float) -> npt.NDArray[np.bool_]:
    """The columns that e-BH rejects at the level exp(-threshold): the k largest, for the most k that it holds for."""
    columns = logs.shape[-1]
    threshold = np.asarray(threshold)[..., None]
    ranked = np.sort(logs, axis=-1)[..., ::-1]
    holds = ranked + np.log(np.arange(1, columns + 1) / columns) >= threshold
    k = np.where(holds.any(axis=-1), columns - holds[..., ::-1].argmax(axis=-1), 0)[..., None]
    least = np.take_along_axis(ranked, np.maximum(k - 1, 0), axis=-1)
    return np.asarray((k > 0) & (logs >= least))
