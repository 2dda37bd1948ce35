"""Step 6 of a request: which variant serves it, which shadows get a copy, and how their answers compare."""

from gateway.routing.assign import CallView, Split, unit_fraction, unit_integer
from gateway.routing.pins import MemoryPins, Pins, SharedPins
from gateway.routing.route import Assignment, CompiledRoute, CompiledShadow, TargetVariant
from gateway.routing.sequences import sequence_id, upstream_sequence_id
from gateway.routing.table import RouteTable

__all__ = [
    "Assignment",
    "CallView",
    "CompiledRoute",
    "CompiledShadow",
    "MemoryPins",
    "Pins",
    "RouteTable",
    "SharedPins",
    "Split",
    "TargetVariant",
    "sequence_id",
    "unit_fraction",
    "unit_integer",
    "upstream_sequence_id",
]
