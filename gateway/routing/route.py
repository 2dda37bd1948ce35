"""One route, compiled: which variant serves a call, what shadows it, and what is tried when that fails.

Contract: `CompiledRoute` is immutable and holds everything that can be looked up or computed ahead of a call;
`assign` is synchronous and does no I/O but the pins' memory. The order of its rules:

    1 a sequence under way stays on the variant it is pinned to
    2 the first match rule that holds decides
    3 else the split: by the unit of `assign_by`, else by the sequence, else at random

A version in the path restricts every one of them to the variants of that version; it is a promise to the
client about who answers, so not even a match rule breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import msgspec

from gateway import settings
from gateway.approvals import Approvals
from gateway.errors import NotFound
from gateway.routing.assign import CallView, Split, UnitOf, header_text, threshold, unit_integer, unit_of
from gateway.routing.pins import Pins
from gateway.routing.sequences import hash64, sequence_id

Drawn: TypeAlias = Literal["match", "hash", "random", "sequence", "version"]
"""What decided: a match rule, the unit's hash, chance, the sequence, or the version (it left one variant)."""

_SEQUENCE: Drawn = "sequence"
_LOW = (1 << 32) - 1


class TargetVariant(msgspec.Struct, frozen=True):
    """One way to serve a route."""

    name: str
    model: str
    version: str
    """"" is the upstream's own choice."""
    upstream: str
    index: int
    """Its place in the list, 0 first."""
    weight: float
    target: int
    """32 bits of a hash of (upstream, model, version): what a sequence's state depends on."""
    pin: int
    """`target` and 32 bits of the name's hash: the value of a pin."""


class CompiledShadow(msgspec.Struct, frozen=True):
    """A model that gets copies of a route's calls."""

    route: str
    name: str
    model: str
    version: str
    upstream: str
    sample: float
    threshold: int
    """Calls whose n lies below are copied; 2^64 is all."""
    rtol: float
    atol: float
    concurrency: int
    queue: int
    timeout: float


class Assignment(msgspec.Struct, frozen=True):
    """Who serves a call."""

    variant: TargetVariant
    version: str
    """The version to ask the upstream for; "" is its own choice."""
    shadows: tuple[CompiledShadow, ...]
    drawn: Drawn
    unit_missing: bool = False
    """The route assigns by a unit that this call does not have, so chance decided: to be counted."""


class MatchRule(msgspec.Struct, frozen=True):
    """A compiled `settings.Match`."""

    headers: tuple[tuple[str, str], ...]
    """(name in lower case, value)."""
    variant: TargetVariant

    def holds(self, headers: Mapping[str, str]) -> bool:
        """Whether each header is there with exactly its value."""
        return all(name in headers and header_text(headers[name]) == value for name, value in self.headers)


class Draw(msgspec.Struct, frozen=True):
    """The variants that may serve and the split over them."""

    variants: tuple[TargetVariant, ...]
    split: Split | None
    """None: no variant has a weight above 0."""
    version: str | None = None
    """A version asked for that is handed to the upstream; None: each variant's own."""

    @classmethod
    def over(cls, variants: tuple[TargetVariant, ...], version: str | None = None) -> Draw:
        """The split in proportion to the variants' weights."""
        weights = [variant.weight for variant in variants]
        return cls(variants, Split(weights) if any(weights) else None, version)


class CompiledRoute(msgspec.Struct, frozen=True):
    """A model name that clients may ask for. Made by `RouteTable.compile`."""

    name: str
    variants: tuple[TargetVariant, ...]
    shadows: tuple[CompiledShadow, ...]
    timeout: float
    """Seconds for one request; on streams between two responses."""
    idempotent: bool
    salt: str
    implicit: bool
    """Not in the settings: a model of the first upstream passed through."""
    _unit: UnitOf | None
    _rules: tuple[MatchRule, ...]
    _fallback: tuple[TargetVariant, ...]
    _all: Draw
    _by_version: dict[str, Draw]
    any_version: bool
    """One variant that names no version: the client may ask for any."""
    _pins: Pins
    _random: Callable[[], int]
    _plain: tuple[Assignment, ...] = ()

    def drawn(self) -> Assignment | None:
        """As `assign` for a call without version and sequence, where only chance decides and nothing is copied.

        None: more has to be looked at.
        """
        plain = self._plain
        if len(plain) > 1:
            split = self._all.split
            assert split is not None
            return plain[split.pick(self._random())]
        return plain[0] if plain else None

    def assign(self, call: CallView) -> Assignment:
        """Choose the variant and the shadows of one call.

        Raises:
            NotFound: a version was asked for that no variant with a weight serves.
        """
        draw = self._all if not call.version else self._of_version(call.version)
        sequence = sequence_id(call.parameters)
        if sequence is None:
            variant, drawn, missing = self._choose(call, draw, None)
            return self._assignment(variant, draw, self._sample(None), drawn, missing)
        variant, drawn, missing = self._in_sequence(call, draw, sequence)
        return self._assignment(variant, draw, self._sample((call.subject.tenant, sequence)), drawn, missing)

    def fallbacks(self, call: CallView, assignment: Assignment) -> tuple[Assignment, ...]:
        """What to try, in order, when the assigned variant failed for a reason that is not the client's.

        None when calls must be sent once, and none in a sequence: its state lives in the variant that failed.
        Shadows have had their copy by then.
        """
        if not self._fallback or not self.idempotent or sequence_id(call.parameters) is not None:
            return ()
        draw = self._all if not call.version else self._of_version(call.version)
        return tuple(
            self._assignment(variant, draw, (), assignment.drawn, assignment.unit_missing)
            for variant in self._fallback
            if variant is not assignment.variant and variant in draw.variants
        )

    def page(self, version: str = "") -> Assignment:
        """The variant that speaks for the route on pages about it: metadata, config, readiness.

        It is the one with the largest weight, the first listed of equals; when a version is asked for, among
        those of that version, whatever their weights.

        Raises:
            NotFound: no variant has that version.
        """
        draw = self._all if not version else self._of_version(version)
        best = max(draw.variants, key=lambda variant: (variant.weight, -variant.index))
        return self._assignment(best, draw, (), "version", False)

    def versions(self) -> tuple[str, ...] | None:
        """The versions that may be asked for by number, in the order listed; None when the upstream knows."""
        if self.any_version:
            return None
        matched = {rule.variant.name for rule in self._rules}
        return tuple(
            version
            for version, draw in self._by_version.items()
            if draw.split is not None or any(variant.name in matched for variant in draw.variants)
        )

    def of_version(self, version: str) -> tuple[TargetVariant, ...]:
        """The variants that have a version that was asked for, whatever their weights; "": all.

        Raises:
            NotFound: no variant has that version.
        """
        return self.variants if not version else self._of_version(version).variants

    def _of_version(self, version: str) -> Draw:
        draw = self._by_version.get(version)
        if draw is not None:
            return draw
        if self.any_version:
            return Draw(self.variants, self._all.split, version)
        raise NotFound(f"Request for unknown model: '{self.name}' version {version} is not found")

    def _choose(self, call: CallView, draw: Draw, sequence: int | str | None) -> tuple[TargetVariant, Drawn, bool]:
        for rule in self._rules:
            if rule.holds(call.headers) and (draw is self._all or rule.variant in draw.variants):
                return rule.variant, "match", False
        if draw.split is None:
            raise NotFound(
                f"Request for unknown model: '{self.name}' version {call.version} is served by no variant "
                "whose weight is above 0"
            )
        unit = self._unit(call) if self._unit is not None else ""
        drawn: Drawn
        missing = False
        if unit:
            n, drawn = unit_integer(self.salt, unit), "hash"
        elif sequence is not None:
            n, drawn = unit_integer(self.salt, f"{call.subject.tenant}\0{sequence}"), "sequence"
        else:
            n, drawn, missing = self._chance(call), "random", self._unit is not None
        if call.version and len(draw.variants) == 1:
            drawn, missing = "version", False
        return draw.variants[draw.split.pick(n)], drawn, missing

    def _in_sequence(self, call: CallView, draw: Draw, sequence: int | str) -> tuple[TargetVariant, Drawn, bool]:
        """The pinned variant; for a sequence that begins, or whose pin was lost, a drawn one, pinned then.

        The version is part of the key: calls that ask for different versions cannot share a state.
        """
        key = hash64(self.name, call.version, call.subject.tenant, str(sequence))
        value = self._pins.get(key)
        begins = call.parameters.get("sequence_start") is True
        pinned = self._pinned(draw, value) if value and not begins else None
        if pinned:
            variant, drawn, missing = pinned, _SEQUENCE, False
        else:
            variant, drawn, missing = self._choose(call, draw, sequence)
        ends = call.parameters.get("sequence_end") is True
        if value and (ends or variant.pin != value):
            self._pins.drop(key)
        if not ends and variant.pin != value:
            # Another worker may have pinned it in this very moment; the first one holds.
            variant = self._pinned(draw, self._pins.put(key, variant.pin)) or variant
        return variant, drawn, missing

    def _chance(self, call: CallView) -> int:
        if call.draws is None:
            return self._random()
        n = call.draws.get(self.name)
        if n is None:
            n = call.draws[self.name] = self._random()
        return n

    @staticmethod
    def _pinned(draw: Draw, value: int) -> TargetVariant | None:
        """The variant that a pin means: of that name and target, else of that target under another name."""
        same = (variant for variant in draw.variants if variant.pin == value)
        moved = (variant for variant in draw.variants if variant.target == value >> 32)
        return next(same, None) or next(moved, None)

    def _sample(self, sequence: tuple[str, int | str] | None) -> tuple[CompiledShadow, ...]:
        """The shadows that get this call; a sequence is copied whole or not at all."""
        if not self.shadows:
            return ()
        return tuple(shadow for shadow in self.shadows if self._sampled(shadow, sequence))

    def _sampled(self, shadow: CompiledShadow, sequence: tuple[str, int | str] | None) -> bool:
        if sequence is None:
            return self._random() < shadow.threshold
        tenant, number = sequence
        return hash64("shadow", self.salt, shadow.name, tenant, str(number)) < shadow.threshold

    @staticmethod
    def _assignment(
        variant: TargetVariant, draw: Draw, shadows: tuple[CompiledShadow, ...], drawn: Drawn, missing: bool
    ) -> Assignment:
        version = variant.version if draw.version is None else draw.version
        return Assignment(variant, version, shadows, drawn, missing)


def compile_route(
    name: str,
    route: settings.Route,
    first_upstream: str,
    pins: Pins,
    random: Callable[[], int],
    *,
    implicit: bool,
    approvals: Approvals | None = None,
) -> CompiledRoute:
    """A route of the settings, ready to assign.

    Where the registry is enforced, a variant without a version is of its model's live one, and a fallback that may not
    serve is none.

    Raises:
        ValueError: what the settings file's checks refuse with a location: unknown variants, impossible
            weights, an unknown form of `assign_by`.
    """
    listed = route.variants or (settings.Variant(name="default", model=name),)
    enforced = approvals if approvals is not None and approvals.enforcing else None
    variants = tuple(_variant(index, variant, first_upstream, enforced) for index, variant in enumerate(listed))
    by_name = {variant.name: variant for variant in variants}
    if len(by_name) < len(variants):
        raise ValueError(f"routes.{name}: two variants have the same name")
    missing = {rule.variant for rule in route.match}.union(route.fallback) - by_name.keys()
    if missing:
        raise ValueError(f"routes.{name}: no variant is named {', '.join(sorted(missing))}")
    everything = Draw.over(variants)
    if everything.split is None:
        raise ValueError(f"routes.{name}: all weights are 0")
    declared = tuple(variant.version or "" for variant in listed)
    return CompiledRoute(
        name=name,
        variants=variants,
        shadows=tuple(_shadow(name, shadow, first_upstream) for shadow in route.shadows),
        timeout=route.timeout,
        idempotent=route.idempotent,
        salt=name if route.salt is None else route.salt,
        implicit=implicit,
        _unit=unit_of(route.assign_by),
        _rules=tuple(
            MatchRule(
                tuple((header.lower(), value) for header, value in rule.headers.items()),
                by_name[rule.variant],
            )
            for rule in route.match
        ),
        _fallback=tuple(
            by_name[fallback]
            for fallback in route.fallback
            if enforced is None or not enforced.why_not(by_name[fallback].model, by_name[fallback].version)
        ),
        _all=everything,
        _by_version={
            version: Draw.over(
                tuple(variant for variant, own in zip(variants, declared, strict=True) if own == version)
            )
            for version in dict.fromkeys(declared)
            if version
        },
        any_version=len(variants) == 1 and not listed[0].version,
        _pins=pins,
        _random=random,
        _plain=()
        if route.match or route.shadows or unit_of(route.assign_by) is not None
        else tuple(Assignment(variant, variant.version, (), "random") for variant in variants),
    )


def _variant(index: int, variant: settings.Variant, first_upstream: str, enforced: Approvals | None) -> TargetVariant:
    upstream, version = variant.upstream or first_upstream, variant.version or ""
    if not version and enforced is not None:
        version = enforced.live(variant.model)
    target = hash64(upstream, variant.model, version) & _LOW or 1  # 0 would read as no pin
    pin = target << 32 | hash64(variant.name) & _LOW
    return TargetVariant(variant.name, variant.model, version, upstream, index, variant.weight, target, pin)


def _shadow(route: str, shadow: settings.Shadow, first_upstream: str) -> CompiledShadow:
    return CompiledShadow(
        route=route,
        name=shadow.name,
        model=shadow.model,
        version=shadow.version or "",
        upstream=shadow.upstream or first_upstream,
        sample=shadow.sample,
        threshold=threshold(shadow.sample),
        rtol=shadow.compare.rtol,
        atol=shadow.compare.atol,
        concurrency=shadow.concurrency,
        queue=shadow.queue,
        timeout=shadow.timeout,
    )
