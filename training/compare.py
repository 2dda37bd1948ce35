"""Whether metrics are as committed."""

from __future__ import annotations

from typing import Any


def compare(name: str, committed: dict[str, Any], found: dict[str, Any], tolerance: dict[str, float]) -> list[str]:
    """One line for each metric that is off by more than its tolerance, or is missing."""
    lines = []
    for version, metrics in committed["versions"].items():
        for metric, allowed in tolerance.items():
            old, new = metrics[metric], found["versions"].get(version, {}).get(metric)
            if new is None or abs(old - new) > allowed:
                lines.append(f"{name} version {version}: {metric} is {new}, committed {old}, tolerance {allowed}")
    return lines
