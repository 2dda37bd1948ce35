"""Whether the data that a version was made of is known, and is still what it was.

Contract: pure. Data sets are those of the evidence `lineage` (`governance.mlflow.documents.lineage`); what they are now
is what a file of DVC says that is registered as the evidence `data`. A digest is compared with one of the same
algorithm alone: what MLflow's digests are of is MLflow's own, and nothing here says them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_MOST_TOLD = 5
MLFLOW = "mlflow"


class LineageError(ValueError):
    """Lineage that is not of its form."""


def known(datasets: Any, least: int) -> tuple[bool, str]:
    """Whether each data set has a digest and none has two, and they are so many; and what was found.

    Args:
        datasets: `datasets` of the evidence.
        least: how many there have to be.

    Raises:
        LineageError: it is no list of data sets.
    """
    found = _listed(datasets)
    without = [one["name"] for one in found if not one.get("digest")]
    if without:
        return False, f"without a digest: {_told(without)}"
    several = [name for (name, algorithm), all_ in _digests(found).items() if len(all_) > 1 and algorithm != MLFLOW]
    if several:
        return False, f"with several digests: {_told(several)}"
    return len(found) >= least, f"{len(found)} data sets, each with its digest"


def unchanged(datasets: Any, now: Iterable[Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether what can be compared is the same now; nothing to compare is no agreement.

    Args:
        datasets: `datasets` of the evidence `lineage`.
        now: those of the evidence `data`.

    Raises:
        LineageError: the first is no list of data sets.
    """
    then, current = _digests(_listed(datasets)), _digests(now)
    own = {key: digests for key, digests in then.items() if key[1] != MLFLOW}
    absent = [name for name, algorithm in own if (name, algorithm) not in current]
    changed = [key[0] for key, digests in own.items() if key in current and current[key] != digests]
    for names, said in ((changed, "changed"), (absent, "not in the evidence `data`")):
        if names:
            return False, f"{said}: {_told(names)}"
    left = len(then) - len(own)
    also = f"; {left} of MLflow's not compared" if left else ""
    return bool(own), f"{len(own)} compared, none changed{also}"


def _listed(datasets: Any) -> list[dict[str, Any]]:
    if not isinstance(datasets, list):
        raise LineageError("no list")
    for one in datasets:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise LineageError("no data set with a name")
        if not isinstance(one.get("digest") or "", str) or not isinstance(one.get("algorithm") or "", str):
            raise LineageError("a digest or algorithm that is no text")
    return datasets


def _digests(datasets: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for one in datasets:
        found.setdefault((one["name"], one.get("algorithm") or ""), set()).add(one.get("digest") or "")
    return found


def _told(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
    return ", ".join(name[:100] for name in names[:_MOST_TOLD]) + more
