"""Metrics of all workers of one machine.

Each worker writes its own file (`registry`), anyone reads and merges all of them (`reader`) and renders the
page (`expose`). The files' layout is in `layout`. One writer a file, so that counting needs no lock.
"""

from __future__ import annotations

from gateway.metrics.expose import Page
from gateway.metrics.reader import Exemplar, HistogramValue, Reader
from gateway.metrics.registry import Family, MetricsError, Registry

__all__ = ["Exemplar", "Family", "HistogramValue", "MetricsError", "Page", "Reader", "Registry"]
