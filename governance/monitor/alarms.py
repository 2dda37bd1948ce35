"""When an alarm begins and when it ends. Pure; the same for one route's next window and for a thousand simulated ones.

An alarm begins when some column stands out at the threshold, of those that are off by at least the effect that matters:
significance alone is none, and neither is size. It ends when evidence has been below half of the threshold for some
windows in a row, and none begins for some after that. Thresholds are of `calibration`, so that what the reference alone
would do is within its budget.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from governance.monitor import evidence
from governance.monitor.evidence import Evidence
from governance.monitor.scores import Floats, Layout, Scores, Window, scores

Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


class Rule(msgspec.Struct, frozen=True):
    """What an alarm is."""

    effect: float
    """Below which no column is worth an alarm, in standard deviations or what is like them (Cohen's w and h); nor is
    one below what the reference's own chance may be."""
    clear: int
    """Windows in a row without evidence, after which an alarm ends."""
    cooldown: int
    """Windows after that in which none begins."""


class Standing(NamedTuple):
    """Where alarms stand: evidence, and for each stream three numbers."""

    evidence: Evidence
    active: Truths
    calm: Ints
    """Windows without evidence in a row."""
    cool: Ints
    """Windows in which none may begin."""


class Turn(NamedTuple):
    """What a window did."""

    standing: Standing
    began: Truths
    ended: Truths
    named: Truths
    """(..., columns): which stand out and are off by enough."""
    found: Evidence
    """What has gathered, before what is over is forgotten."""
    logs: Floats
    """Each column's, (..., columns)."""
    overall: Floats
    """See `evidence.overall`."""


def quiet(columns: int, *streams: int) -> Standing:
    """At the beginning."""
    zeros = np.zeros(streams, dtype=np.int64)
    return Standing(evidence.none(columns, *streams), np.zeros(streams, dtype=np.bool_), zeros, zeros)


def turn(
    of: Layout, before: Standing, now: Window, threshold: Floats | float, rule: Rule, there: Truths | None = None
) -> Turn:
    """One window more.

    Args:
        of: the columns.
        before: how it stood.
        now: the window.
        threshold: for windows of so many rows, (...): `calibration.threshold`.
        rule: what an alarm is.
        there: columns that count, (columns); None: all.
    """
    columns = len(of.names)
    said = scores(of, now)
    if there is not None:
        said = Scores(said.z * there[:, None], said.effect * there[:, None])
    found = evidence.gathered(before.evidence, said, now.rows, evidence.most_of(threshold, columns))
    logs = evidence.by_column(found, np.maximum(rule.effect, of.noise))
    total = evidence.overall(logs)
    named = evidence.standing_out(logs, threshold)
    began = ~before.active & (before.cool == 0) & named.any(axis=-1)
    calm = np.where(before.active & (total < np.asarray(threshold) / 2), before.calm + 1, 0)
    ended = before.active & (calm >= rule.clear)
    # What is over is forgotten; else its rest would be half of the next one.
    over = ended[..., None, None]
    after = Standing(
        Evidence(np.where(over, 0.0, found.charts), np.where(over, 0.0, found.effects)),
        (before.active | began) & ~ended,
        np.where(ended, 0, calm),
        np.where(ended, rule.cooldown, np.maximum(before.cool - 1, 0)),
    )
    return Turn(after, began, ended, named, found, logs, total)
