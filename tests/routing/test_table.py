"""Routes: what decides who serves, in which order, and what a version, a sequence or a reload changes."""

import threading
from collections import Counter

import pytest

from gateway.errors import NotFound
from gateway.routing import (
    CallView,
    MemoryPins,
    RouteTable,
    SharedPins,
    Split,
    sequence_id,
    unit_integer,
    upstream_sequence_id,
)
from gateway.routing.sequences import hash64
from gateway.routing.table import MOST_IMPLICIT
from gateway.settings import Match, Route, Settings, Shadow, Upstream, Variant
from governance.types import Subject

ALICE = Subject("alice", "acme")
BOB = Subject("bob", "globex")
UPSTREAMS = {"triton": Upstream(http="127.0.0.1:1"), "spare": Upstream(http="127.0.0.1:2")}
CHAMPION = Variant(name="champion", model="income", version="1", weight=90)
CHALLENGER = Variant(name="challenger", model="income", version="2", weight=10)


class Draws:
    """Hands out these numbers, then fails."""

    def __init__(self, *numbers) -> None:
        self.numbers = list(numbers)

    def __call__(self) -> int:
        return self.numbers.pop(0)


LOW, HIGH = 0, 2**64 - 1


def table(routes, *, draw=None, pins=None, **settings):
    config = Settings(upstreams=UPSTREAMS, routes=routes, **settings)
    return RouteTable.compile(config, pins) if draw is None else RouteTable.compile(config, pins, draw)


def credit(draw=None, pins=None, variants=(CHAMPION, CHALLENGER), **route):
    return table({"credit": Route(variants=variants, **route)}, draw=draw, pins=pins).lookup("credit")


def served(route, **call):
    return route.assign(CallView(call.pop("subject", ALICE), **call)).variant.name


# --- names -------------------------------------------------------------------------------------------------


def test_without_routes_every_model_of_the_first_upstream_is_passed_through():
    routes = table({})
    route = routes.lookup("anything")
    assignment = route.assign(CallView(ALICE))
    assert route.implicit
    assert (assignment.variant.name, assignment.variant.model) == ("default", "anything")
    assert (assignment.variant.upstream, assignment.version) == ("triton", "")
    assert route.assign(CallView(ALICE, version="7")).version == "7"
    assert route.page("7").version == "7"
    assert route.versions() is None
    assert routes.lookup("") is None


def test_with_routes_other_names_are_unknown_unless_passed_through():
    routes = {"credit": Route()}
    assert table(routes).lookup("income") is None
    assert table(routes, passthrough=True).lookup("income").implicit
    assert not table(routes, passthrough=True).lookup("credit").implicit
    assert table(routes).implicit("income").name == "income"


def test_a_route_without_variants_serves_the_model_of_its_name():
    variant = table({"credit": Route()}).lookup("credit").assign(CallView(ALICE)).variant
    assert (variant.name, variant.model, variant.version, variant.upstream) == (
        "default",
        "credit",
        "",
        "triton",
    )


def test_names_that_callers_make_up_do_not_grow_the_table():
    routes = table({})
    for i in range(MOST_IMPLICIT + 10):
        routes.lookup(f"m{i}")
    assert len(routes._implicit) <= MOST_IMPLICIT


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (Route(variants=(CHAMPION, CHAMPION)), "same name"),
        (Route(variants=(CHAMPION,), fallback=("nobody",)), "nobody"),
        (Route(variants=(CHAMPION,), match=(Match(headers={"a": "b"}, variant="nobody"),)), "nobody"),
        (Route(variants=(Variant(name="a", model="m", weight=0),)), "all weights are 0"),
        (Route(assign_by="nonsense"), "assign_by"),
    ],
)
def test_impossible_routes_are_refused(route, says):
    with pytest.raises(ValueError, match=says):
        table({"credit": route})


# --- the draw ----------------------------------------------------------------------------------------------


def test_request_draws_each_call_at_random():
    route = credit(draw=Draws(LOW, HIGH, 2**63))
    drawn = [route.assign(CallView(ALICE)) for _ in range(3)]
    assert [a.variant.name for a in drawn] == ["champion", "challenger", "champion"]
    assert {(a.drawn, a.unit_missing) for a in drawn} == {("random", False)}


def test_20000_random_draws_follow_the_weights():
    route = credit()
    counts = Counter(served(route) for _ in range(20_000))
    # Six standard deviations (sqrt(20000 * 0.9 * 0.1) = 42): fails once in 500 million runs.
    assert abs(counts["challenger"] - 2000) < 255


@pytest.mark.parametrize("assign_by", ["subject", "tenant", "id", "header:x-unit", "parameter:unit"])
def test_a_unit_decides_by_the_formula(assign_by):
    route = credit(assign_by=assign_by, salt="s", draw=Draws())
    split = Split([90, 10])
    for i in range(300):
        unit = f"u{i}"
        subject = Subject(unit, unit)
        text = "user:" + unit if assign_by == "subject" else unit
        call = CallView(subject, id=unit, headers={"x-unit": unit}, parameters={"unit": unit})
        assignment = route.assign(call)
        assert assignment.variant.index == split.pick(unit_integer("s", text))
        assert (assignment.drawn, assignment.unit_missing) == ("hash", False)


def test_the_salt_is_the_routes_name_by_default():
    route = credit(assign_by="subject", variants=(Variant(name="a", model="m"), Variant(name="b", model="m")))
    for i in range(50):
        name = ("a", "b")[Split([1, 1]).pick(unit_integer("credit", f"user:{i}"))]
        assert served(route, subject=Subject(str(i), "t")) == name


def test_a_call_without_its_unit_is_drawn_at_random_and_says_so():
    route = credit(assign_by="header:x-unit", draw=Draws(HIGH, LOW, HIGH))
    for headers, name in (({}, "challenger"), ({"x-unit": ""}, "champion"), ({"other": "1"}, "challenger")):
        assignment = route.assign(CallView(ALICE, headers=headers))
        assert (assignment.variant.name, assignment.drawn, assignment.unit_missing) == (name, "random", True)


def test_weight_0_draws_nothing_and_can_still_be_matched():
    dark = Variant(name="dark", model="income", version="3", weight=0)
    rule = Match(headers={"x-variant": "dark"}, variant="dark")
    route = credit(variants=(dark, CHAMPION, CHALLENGER), match=(rule,))
    assert {served(route) for _ in range(500)} == {"champion", "challenger"}
    assert served(route, headers={"x-variant": "dark"}) == "dark"


def test_a_stream_draws_once_for_a_route():
    route, draws = credit(draw=Draws(HIGH, LOW, LOW)), {}
    assert [served(route, draws=draws) for _ in range(5)] == ["challenger"] * 5
    assert served(route, draws={}) == "champion"


# --- match rules -------------------------------------------------------------------------------------------


def test_the_first_rule_that_holds_decides():
    route = credit(
        match=(
            Match(headers={"X-Variant": "b", "x-more": "1"}, variant="champion"),
            Match(headers={"x-variant": "b"}, variant="challenger"),
            Match(headers={"x-variant": "b"}, variant="champion"),
        ),
        draw=Draws(LOW, LOW),
    )
    assignment = route.assign(CallView(ALICE, headers={"x-variant": "b"}))
    assert (assignment.variant.name, assignment.drawn) == ("challenger", "match")
    assert served(route, headers={"x-variant": "b", "x-more": "1"}) == "champion"
    assert route.assign(CallView(ALICE, headers={"x-variant": "B"})).drawn == "random"
    assert route.assign(CallView(ALICE, headers={"x-more": "1"})).drawn == "random"


def test_a_rule_for_an_empty_value_wants_the_header():
    route = credit(match=(Match(headers={"x": ""}, variant="challenger"),), draw=Draws(LOW))
    assert served(route) == "champion"
    assert served(route, headers={"x": ""}) == "challenger"


def test_rules_compare_text_beyond_ascii_as_it_was_sent():
    route = credit(match=(Match(headers={"x-who": "né"}, variant="challenger"),), draw=Draws())
    assert served(route, headers={"x-who": "né".encode().decode("latin-1")}) == "challenger"


# --- versions ----------------------------------------------------------------------------------------------


def test_a_version_restricts_the_draw():
    two = Variant(name="two", model="other", version="2", weight=10)
    route = credit(variants=(CHAMPION, CHALLENGER, two), draw=Draws(LOW, HIGH, LOW))
    assert [served(route, version="2") for _ in range(2)] == ["challenger", "two"]
    assignment = route.assign(CallView(ALICE, version="1"))
    assert (assignment.variant.name, assignment.version, assignment.drawn) == ("champion", "1", "version")
    assert route.versions() == ("1", "2")


def test_a_version_that_no_variant_serves_is_not_found():
    route = credit(variants=(CHAMPION, CHALLENGER, Variant(name="latest", model="income")))
    for ask in (route.page, lambda version: route.assign(CallView(ALICE, version=version))):
        with pytest.raises(NotFound, match="'credit' version 9"):
            ask("9")


def test_a_version_of_weight_0_serves_pages_and_no_calls():
    route = credit(variants=(CHAMPION, Variant(name="dark", model="income", version="3", weight=0)))
    with pytest.raises(NotFound, match="weight"):
        route.assign(CallView(ALICE, version="3"))
    assert route.page("3").variant.name == "dark"
    assert route.versions() == ("1",)


def test_one_variant_without_a_version_takes_any():
    route = credit(variants=(Variant(name="only", model="income"),))
    assert route.assign(CallView(ALICE)).version == ""
    assert route.assign(CallView(ALICE, version="5")).version == "5"


def test_one_variant_with_a_version_takes_no_other():
    route = credit(variants=(CHAMPION,))
    with pytest.raises(NotFound):
        route.assign(CallView(ALICE, version="5"))


def test_no_rule_breaks_the_promise_of_a_version():
    route = credit(match=(Match(headers={"x": "1"}, variant="challenger"),), fallback=("champion", "challenger"))
    call = CallView(ALICE, headers={"x": "1"}, version="1")
    assignment = route.assign(call)
    assert assignment.variant.name == "champion"
    assert route.fallbacks(call, assignment) == ()


def test_pages_are_those_of_the_variant_with_the_largest_weight():
    route = credit(variants=(CHALLENGER, CHAMPION, Variant(name="tie", model="m", weight=90)))
    assert route.page().variant.name == "champion"


# --- fallback ----------------------------------------------------------------------------------------------


def test_fallbacks_come_in_their_order_without_the_one_that_failed():
    third = Variant(name="third", model="m", weight=0, upstream="spare")
    route = credit(variants=(CHAMPION, CHALLENGER, third), fallback=("third", "champion"), draw=Draws(LOW))
    call = CallView(ALICE)
    assignment = route.assign(call)
    others = route.fallbacks(call, assignment)
    assert assignment.variant.name == "champion"
    assert [other.variant.name for other in others] == ["third"]
    assert others[0].variant.upstream == "spare"
    assert others[0].shadows == ()


def test_nothing_is_sent_twice_when_calls_are_not_idempotent_or_in_a_sequence():
    call = CallView(ALICE)
    route = credit(fallback=("champion", "challenger"), idempotent=False)
    assert route.fallbacks(call, route.assign(call)) == ()
    route = credit(fallback=("champion", "challenger"))
    assert len(route.fallbacks(call, route.assign(call))) == 1
    call = CallView(ALICE, parameters={"sequence_id": 3})
    assert route.fallbacks(call, route.assign(call)) == ()


# --- sequences ---------------------------------------------------------------------------------------------


def sequence(number, *, start=False, end=False, subject=ALICE, **view):
    flags = (
        {"sequence_id": number} | ({"sequence_start": True} if start else {}) | ({"sequence_end": True} if end else {})
    )
    return CallView(subject, parameters=flags, **view)


@pytest.fixture(params=["memory", "shared"])
def pins(request, tmp_path):
    return MemoryPins() if request.param == "memory" else SharedPins(tmp_path / "pins", 1024)


@pytest.mark.parametrize("value", [None, 0, "", True, 1.0, False])
def test_what_is_no_sequence(value):
    assert sequence_id({} if value is None else {"sequence_id": value}) is None


def test_a_sequence_is_drawn_by_its_id_and_stays(pins):
    route = credit(pins=pins, draw=Draws())
    for number in [*range(1, 40), "a", "b", "c"]:
        first = route.assign(sequence(number, start=True))
        expected = Split([90, 10]).pick(unit_integer("credit", f"acme\0{number}"))
        assert (first.variant.index, first.drawn) == (expected, "sequence")
        assert {route.assign(sequence(number)).variant for _ in range(3)} == {first.variant}


def test_every_worker_draws_a_sequence_alike():
    workers = [credit(draw=Draws()) for _ in range(4)]
    for number in range(1, 50):
        assert len({worker.assign(sequence(number, start=True)).variant.name for worker in workers}) == 1


def test_a_sequence_stays_through_a_changed_split(pins):
    before = credit(pins=pins)
    started = {number: before.assign(sequence(number, start=True)).variant.name for number in range(1, 60)}
    after = credit(pins=pins, variants=(CHALLENGER, Variant(name="champion", model="income", version="1", weight=0)))
    assert set(started.values()) == {"champion", "challenger"}
    for number, name in started.items():
        assignment = after.assign(sequence(number))
        assert (assignment.variant.name, assignment.drawn) == (name, "sequence")
    new = {after.assign(sequence(number, start=True)).variant.name for number in range(100, 160)}
    assert new == {"challenger"}


def test_a_sequence_follows_its_state_when_variants_are_renamed_or_repointed(pins):
    old = credit(pins=pins, variants=(CHAMPION,))
    old.assign(sequence(1, start=True))
    renamed = Variant(name="old", model="income", version="1", weight=0)
    repointed = Variant(name="champion", model="income", version="5")
    route = credit(pins=pins, variants=(repointed, renamed))
    assert route.assign(sequence(1)).variant.name == "old"
    route = credit(pins=pins, variants=(repointed,))
    assert route.assign(sequence(1)).variant.name == "champion"


def test_two_variants_of_one_model_are_told_apart_by_name(pins):
    twins = (Variant(name="a", model="m"), Variant(name="b", model="m"))
    before = credit(pins=pins, variants=twins)
    started = {n: before.assign(sequence(n, start=True)).variant.name for n in range(1, 20)}
    after = credit(pins=pins, variants=(Variant(name="b", model="m"), Variant(name="a", model="m", weight=0)))
    assert {n: after.assign(sequence(n)).variant.name for n in started} == started


def test_the_end_and_a_new_start_forget_the_pin(pins):
    only_champion = credit(pins=pins, variants=(CHAMPION,))
    only_challenger = credit(
        pins=pins, variants=(CHALLENGER, Variant(name="champion", model="income", version="1", weight=0))
    )
    only_champion.assign(sequence(1, start=True))
    assert only_challenger.assign(sequence(1)).variant.name == "champion"
    assert only_challenger.assign(sequence(1, end=True)).variant.name == "champion"
    assert only_challenger.assign(sequence(1)).variant.name == "challenger"
    only_champion.assign(sequence(2, start=True))
    assert only_challenger.assign(sequence(2, start=True)).variant.name == "challenger"
    assert only_challenger.assign(sequence(2)).variant.name == "challenger"


def test_a_sequence_of_one_call_leaves_no_pin():
    pins = MemoryPins()
    credit(pins=pins).assign(sequence(1, start=True, end=True))
    assert len(pins) == 0


def test_sequences_of_two_tenants_are_two_sequences(pins):
    route = credit(pins=pins, assign_by="tenant")
    route.assign(sequence(1, start=True))
    other = credit(pins=pins, variants=(CHALLENGER,))
    assert other.assign(sequence(1, subject=BOB)).variant.name == "challenger"


def test_a_unit_comes_before_the_sequences_id_and_a_pin_before_both(pins):
    route = credit(pins=pins, assign_by="header:x-unit", draw=Draws())
    unit = next(f"u{i}" for i in range(100) if Split([90, 10]).pick(unit_integer("credit", f"u{i}")) == 1)
    first = route.assign(sequence(1, start=True, headers={"x-unit": unit}))
    assert (first.variant.name, first.drawn) == ("challenger", "hash")
    later = route.assign(sequence(1))
    assert (later.variant.name, later.drawn, later.unit_missing) == ("challenger", "sequence", False)


def test_a_match_starts_a_sequence_and_does_not_move_one(pins):
    rule = Match(headers={"x-variant": "challenger"}, variant="challenger")
    route = credit(pins=pins, match=(rule,))
    assert route.assign(sequence(1, start=True, headers={"x-variant": "challenger"})).drawn == "match"
    assert route.assign(sequence(1)).variant.name == "challenger"
    champion = next(n for n in range(2, 99) if route.assign(sequence(n, start=True)).variant.name == "champion")
    assert served(route, parameters={"sequence_id": champion}, headers={"x-variant": "challenger"}) == "champion"


def test_a_version_asked_for_is_part_of_the_sequence(pins):
    route = credit(pins=pins)
    assert route.assign(sequence(1, start=True, version="2")).variant.name == "challenger"
    assert route.assign(sequence(1, version="2")).variant.name == "challenger"
    assert route.assign(sequence(1, version="1")).variant.name == "champion"


def test_when_two_workers_pin_at_once_the_first_holds():
    class Racing(MemoryPins):
        """Another worker pins between our look and our write."""

        def put(self, key, value):
            super().put(key, other.pin)
            return super().put(key, value)

    route = credit(pins=Racing())
    other = route.variants[1]
    number = next(n for n in range(1, 99) if Split([90, 10]).pick(unit_integer("credit", f"acme\0{n}")) == 0)
    assert route.assign(sequence(number, start=True)).variant is other


def test_upstream_ids_tell_tenants_apart_and_fit_the_wire():
    ids = {upstream_sequence_id(tenant, n) for tenant in ("a", "b", "a:1") for n in (1, 2, "1", "2", "1:1")}
    assert len(ids) == 15
    for n in (1, 2**64 - 1, -5):
        number = upstream_sequence_id("acme", n)
        assert 0 < number < 2**63
        assert number == upstream_sequence_id("acme", n)
    text = upstream_sequence_id("acme", "s")
    assert len(text) == 64
    assert int(text, 16)
    assert upstream_sequence_id("acme", 1, "shadow") != upstream_sequence_id("acme", 1)


def test_hashes_depend_on_where_texts_are_cut():
    assert hash64("ab", "c") != hash64("a", "bc") != hash64("abc")


# --- pins --------------------------------------------------------------------------------------------------


def test_pins_keep_the_first_value_until_dropped(pins):
    assert pins.get(5) == 0
    assert pins.put(5, 7) == 7
    assert pins.put(5, 8) == 7
    assert pins.get(5) == 7
    pins.drop(5)
    pins.drop(5)
    assert pins.get(5) == 0


def test_memory_pins_forget_what_was_not_used_for_longest():
    pins = MemoryPins(2)
    pins.put(1, 1)
    pins.put(2, 2)
    pins.get(1)
    pins.put(3, 3)
    assert [pins.get(key) for key in (1, 2, 3)] == [1, 0, 3]


def test_workers_share_pins_through_the_file(tmp_path):
    opened = []
    barrier = threading.Barrier(4)

    def worker():
        barrier.wait()
        opened.append(SharedPins(tmp_path / "pins", 1024))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened[0].put(11, 22)
    assert [pins.get(11) for pins in opened] == [22] * 4


# --- shadows of an assignment ------------------------------------------------------------------------------


def test_a_shadow_gets_its_sample():
    route = credit(shadows=(Shadow(name="c", model="income", version="3", sample=0.25),))
    copied = sum(bool(route.assign(CallView(ALICE)).shadows) for _ in range(8000))
    assert abs(copied - 2000) < 6 * (8000 * 0.25 * 0.75) ** 0.5
    shadow = route.shadows[0]
    assert (shadow.route, shadow.name, shadow.model, shadow.version) == ("credit", "c", "income", "3")
    assert shadow.upstream == "triton"


def test_a_sample_of_1_copies_all_and_of_0_none():
    shadows = (Shadow(name="all", model="m", sample=1), Shadow(name="none", model="m", sample=0))
    route = credit(shadows=shadows)
    for _ in range(200):
        assert [shadow.name for shadow in route.assign(CallView(ALICE)).shadows] == ["all"]


def test_a_sequence_is_copied_whole_or_not_at_all_by_every_worker():
    routes = [credit(shadows=(Shadow(name="c", model="m", sample=0.5),)) for _ in range(2)]
    whole = []
    for number in range(1, 201):
        copied = {bool(route.assign(sequence(number, start=i == 0)).shadows) for i in range(5) for route in routes}
        assert len(copied) == 1
        whole += copied
    assert 60 < sum(whole) < 140
