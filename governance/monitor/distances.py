"""How far two sets of counts over the same cells are apart. Formulas: natural logarithm unless said.

All go by Jeffreys' estimate of each cell's probability, so that an empty cell is improbable and not impossible:
filling it with an arbitrary small number makes PSI anything (0.7 or 70 for the same data).
"""

from __future__ import annotations

from math import log

import numpy as np
import numpy.typing as npt

from governance.monitor.cells import Counts

Shares = npt.NDArray[np.float64]


def jeffreys(counts: Counts) -> Shares:
    """(c + 1/2) / (n + B/2) for B cells (Jeffreys 1946, the prior of a multinomial)."""
    shares: Shares = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def psi(p: Shares, q: Shares) -> float:
    """Population stability index: sum (q - p) ln(q / p); symmetric, at least 0."""
    return float(((q - p) * np.log(q / p)).sum())


def kl(p: Shares, q: Shares) -> float:
    """Kullback-Leibler divergence of the current shares q from the reference p: sum q ln(q / p)."""
    return float((q * np.log(q / p)).sum())


def js(p: Shares, q: Shares) -> float:
    """Jensen-Shannon distance, the square root of the divergence to base 2: 0 to 1 (Endres and Schindelin 2003)."""
    m = (p + q) / 2
    return float(np.sqrt(max(0.0, (kl(m, p) + kl(m, q)) / (2 * log(2)))))


def hellinger(p: Shares, q: Shares) -> float:
    """sqrt(1 - sum sqrt(p q)): 0 to 1."""
    return float(np.sqrt(min(1.0, max(0.0, 1.0 - float(np.sqrt(p * q).sum())))))


def of_cells(reference: Counts, current: Counts) -> dict[str, float | None]:
    """All four of counts over the same cells."""
    p, q = jeffreys(reference), jeffreys(current)
    return {"psi": psi(p, q), "js": js(p, q), "hellinger": hellinger(p, q), "kl": kl(p, q)}


def ks_of_cells(reference: Counts, current: Counts) -> float:
    """The largest distance between the distribution functions at the cells' edges: a lower bound of KS."""
    between = np.cumsum(reference) / reference.sum() - np.cumsum(current) / current.sum()
    return float(np.abs(between).max())


def pooled(reference: Counts, current: Counts, least: float = 5.0) -> tuple[Counts, Counts]:
    """Cells for a test of contingency: those empty on both sides are left out, rare ones become one.

    A cell is rare when the smaller of its two expected counts is below `least`. While the pooled one still is, the
    remaining cell with the fewest observations joins it, the later of several.
    """
    keep = (reference + current) > 0
    a, b = reference[keep], current[keep]
    totals = a + b
    share = min(a.sum(), b.sum()) / totals.sum()
    rare = totals * share < least
    if not rare.any():
        return a, b
    order = sorted(np.flatnonzero(~rare), key=lambda at: (totals[at], -at))
    pool = totals[rare].sum()
    for at in order:
        if pool * share >= least:
            break
        rare[at] = True
        pool += totals[at]
    return np.append(a[~rare], a[rare].sum()), np.append(b[~rare], b[rare].sum())
