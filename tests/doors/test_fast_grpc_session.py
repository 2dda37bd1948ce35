"""The nghttp2 session against frames by hand: events in, bytes out, windows, limits; nothing of it needs a socket."""

from __future__ import annotations

import pytest
from h2_frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    PREFACE,
    RST,
    SETTINGS,
    UNARY,
    WINDOW,
    frame,
    frames,
    head,
    message,
    window,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors._fast_grpc_c import Rpc, Session
from gateway.doors.fast_grpc_call import seconds_of
from gateway.wire._http2_c import (
    BAD_FRAME,
    CALL,
    CLOSED,
    HALF_CLOSED,
    MESSAGE,
    PINGED,
    PONGED,
    STREAM_WINDOW,
    TOO_LARGE,
    WHOLE,
    ProtocolError,
    load,
)

load()
OK = [("grpc-status", "0")]
MOST = 1 << 20


def session() -> Session:
    made = Session(Rpc, most_metadata=16 * 1024, most_message=MOST, streams=100)
    made.receive(HELLO)
    out(made)
    return made


def out(made: Session) -> list[tuple[int, int, int, bytes]]:
    taken = made.take() or b""
    return frames(taken if isinstance(taken, bytes) else b"".join(taken))


def opened(made: Session, stream: int = 1, *more: tuple[str, str]) -> Rpc:
    ((kind, call, _),) = made.receive(head(stream, *more))
    assert kind == CALL
    return call


def test_it_says_its_settings_first():
    made = Session(Rpc, most_metadata=16 * 1024, most_message=MOST, streams=100)
    (kind, flags, stream, payload), *rest = out(made)
    assert (kind, flags, stream) == (SETTINGS, 0, 0)
    said = {payload[at + 1]: int.from_bytes(payload[at + 2 : at + 6]) for at in range(0, len(payload), 6)}
    assert said == {1: 4096, 2: 0, 3: 100, 4: STREAM_WINDOW, 6: 16 * 1024}
    assert [kind for kind, *_ in rest] == [WINDOW]
    assert not made.greeted
    made.receive(HELLO)
    assert made.greeted


CALLS = (
    head(1, ("x-api-key", "k"), ("grpc-timeout", "5S"), ("a", "1"), ("a", "2"), ("b-bin", "AAE="))
    + frame(DATA, 0, 1, message(b"one") + message(b""))
    + head(3, ("grpc-encoding", "gzip"), path="/other")
    + frame(DATA, 0, 3, message(b"x" * 70_000, 1)[:16_000])
    + frame(DATA, END_STREAM, 1)
    + frame(DATA, 0, 3, message(b"x" * 70_000, 1)[16_000:32_000])
    + frame(DATA, 0, 3, message(b"x" * 70_000, 1)[32_000:48_000])
    + frame(DATA, 0, 3, message(b"x" * 70_000, 1)[48_000:64_000])
    + frame(DATA, END_STREAM, 3, message(b"x" * 70_000, 1)[64_000:] + b"\0\0")
    + frame(PING, 0, 0, bytes(8))
    + frame(RST, 0, 3, b"\0\0\0\x08")
)


def seen(pieces: list[bytes]) -> tuple[list, list]:
    made, events, calls = session(), [], {}
    for piece in pieces:
        for kind, call, what in made.receive(piece):
            events.append((kind, call and call.stream, what))
            if call is not None:
                calls[call.stream] = call
    facts = [
        (c.path, c.method, c.content_type, c.encoding, c.timeout, dict(c.headers), c.half_closed, c.cut_short, c.gone)
        for c in calls.values()
    ]
    return events, facts


def test_two_calls():
    events, facts = seen([CALLS])
    assert events == [
        (CALL, 1, None),
        (MESSAGE, 1, (b"one", 0)),
        (MESSAGE, 1, (b"", 0)),
        (CALL, 3, None),
        (HALF_CLOSED, 1, None),
        (MESSAGE, 3, (b"x" * 70_000, 1)),
        (HALF_CLOSED, 3, None),
        (PINGED, None, None),
        (CLOSED, 3, 8),
    ]
    assert facts == [
        (UNARY, "POST", "application/grpc", "", "5S", {"x-api-key": "k", "a": "1,2"}, True, False, False),
        ("/other", "POST", "application/grpc", "gzip", "", {}, True, True, True),
    ]


@given(st.lists(st.integers(0, len(CALLS)), max_size=12))
def test_the_same_however_it_is_cut(cuts):
    at = [0, *sorted(cuts), len(CALLS)]
    assert seen([CALLS[start:end] for start, end in zip(at, at[1:], strict=False)]) == seen([CALLS])


def test_the_same_byte_by_byte():
    assert seen([bytes([byte]) for byte in CALLS]) == seen([CALLS])


def test_an_answer_is_headers_data_trailers_and_the_rest_is_not_wanted():
    made = session()
    call = opened(made)
    made.receive(frame(DATA, 0, 1, message(b"in")))
    made.answer(call, (("x-request-id", "r"),), b"answer", OK)
    kinds = [(kind, flags & END_STREAM, payload) for kind, flags, _, payload in out(made)]
    assert [(kind, end) for kind, end, _ in kinds] == [(HEADERS, 0), (DATA, 0), (HEADERS, END_STREAM), (RST, 0)]
    assert kinds[1][2] == message(b"answer")
    assert kinds[3][2] == bytes(4), "NO_ERROR: the client had not ended its half"
    assert made.late_events() == [], "nothing runs for it that would have to be told"
    assert call.gone
    assert not made.calls


def test_the_end_of_a_call_is_told_where_something_runs_for_it():
    made = session()
    for stream, name in ((1, "task"), (3, "timer"), (5, "room")):
        call = opened(made, stream)
        setattr(call, name, object())
        made.answer(call, (), b"", OK)
        out(made)
        assert made.late_events() == [(CLOSED, call, 0)]


def test_a_call_that_comes_at_once_is_one_event():
    made = session()
    ((kind, call, what),) = made.receive(head(1) + frame(DATA, END_STREAM, 1, message(b"in")))
    assert (kind, what, call.half_closed) == (WHOLE, (b"in", 0), True)
    events = made.receive(head(3) + frame(DATA, END_STREAM, 3, message(b"in") + b"\0"))
    assert [kind for kind, *_ in events] == [CALL, MESSAGE, HALF_CLOSED]
    events = made.receive(head(5) + frame(DATA, END_STREAM, 5, message(b"one") + message(b"two")))
    assert [kind for kind, *_ in events] == [CALL, MESSAGE, MESSAGE, HALF_CLOSED]


FIELDS = st.tuples(
    st.sampled_from(["a", "b", "x-api-key", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "b-bin"]),
    st.sampled_from(["1", "2", "gzip", "ü", "v" * 700]),
)


@given(st.lists(FIELDS, max_size=6), st.sampled_from([UNARY, "/other"]), st.integers(1, 3))
def test_a_head_means_the_same_each_time(fields, path, pieces):
    """Also where it is known by heart, where it does not fit there, and where it comes in several frames."""
    wanted: dict[str, str] = {}
    for name, value in fields:
        if name in ("a", "b", "x-api-key"):
            wanted[name] = f"{wanted[name]},{value}" if name in wanted else value
    last = {name: value for name, value in fields if value != "ü"}
    made = session()
    for number in range(4):
        whole = head(2 * number + 1, *fields, path=path)
        at = [len(whole) * piece // pieces for piece in range(pieces + 1)]
        events = [event for start, end in zip(at, at[1:], strict=False) for event in made.receive(whole[start:end])]
        ((kind, call, _),) = events
        assert (kind, call.path, call.method) == (CALL, path, "POST")
        assert call.headers == wanted
        if len(last) == len(fields):
            assert (call.timeout, call.encoding) == (last.get("grpc-timeout", ""), last.get("grpc-encoding", ""))


def test_calls_of_one_head_share_its_headers_whatever_time_they_have():
    made = session()
    calls = [opened(made, 2 * n + 1, ("own", "1"), ("grpc-timeout", f"{n}S")) for n in range(4)]
    assert calls[3].headers is calls[2].headers is calls[1].headers
    assert [call.timeout for call in calls] == ["0S", "1S", "2S", "3S"]
    assert opened(made, 9, ("own", "2")).headers == {"own": "2"}


def test_a_head_that_goes_beyond_the_limit_leaves_the_known_one_as_it_is():
    made = session()
    known = [opened(made, 2 * n + 1, ("same", "1")) for n in range(3)][-1]
    call = opened(made, 9, ("same", "1"), ("large", "v" * 16_100))
    assert call.oversized
    call.headers.clear()
    assert known.headers == {"same": "1"}


def test_a_client_that_has_ended_is_not_reset():
    made = session()
    call = opened(made)
    made.receive(frame(DATA, END_STREAM, 1, message(b"in")))
    made.answer(call, (), b"", OK)
    assert [kind for kind, *_ in out(made)] == [HEADERS, DATA, HEADERS]


def test_an_error_has_initial_metadata_and_trailers():
    made = session()
    call = opened(made)
    made.begin(call, (("x-request-id", "r"),))
    made.finish(call, [("grpc-status", "3"), ("grpc-message", "no")])
    assert [(kind, flags & END_STREAM) for kind, flags, *_ in out(made)][:2] == [(HEADERS, 0), (HEADERS, END_STREAM)]
    made.finish(call, OK)
    made.write(call, b"late")
    assert out(made) == [], "what comes behind the end is nothing"


def test_messages_of_a_stream_go_as_they_come():
    made = session()
    call = opened(made)
    made.begin(call, ())
    assert [kind for kind, *_ in out(made)] == [HEADERS]
    for text in (b"one", b"", b"three"):
        made.write(call, text)
        assert [payload for kind, _, _, payload in out(made) if kind == DATA] == [message(text)]
    made.write(call, b"last")
    made.finish(call, OK)
    assert [kind for kind, *_ in out(made)][:2] == [DATA, HEADERS]


@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=4), st.lists(st.integers(1, 30_000), max_size=6))
def test_no_more_is_sent_than_the_client_gives_room_for(messages, rooms):
    made = session()
    call = opened(made)
    made.begin(call, ())
    out(made)
    for each in messages:
        made.write(call, each)
    made.finish(call, OK)
    whole, room, got = b"".join(map(message, messages)), 65_535, b""
    for more in [0, *rooms, 1 << 20]:
        if more:
            made.receive(window(1, more) + window(0, more))
            room += more
        got += b"".join(payload for kind, _, _, payload in out(made) if kind == DATA)
        assert len(got) == min(room, len(whole))
        assert call.waiting == made.pending == len(whole) - len(got)
    assert got == whole
    assert call.gone


def test_a_stream_that_nobody_reads_stops_itself_alone():
    made = session()
    lazy, other = opened(made, 1), opened(made, 3)
    part = message(b"x" * 16_000)
    given_back = sent = 0
    for _ in range(3 * STREAM_WINDOW // len(part)):
        made.receive(frame(DATA, 0, 1, part))
        sent += len(part)
        given_back += sum(
            int.from_bytes(payload) for kind, _, stream, payload in out(made) if (kind, stream) == (WINDOW, 1)
        )
        if sent - given_back > STREAM_WINDOW - len(part):
            break
    else:
        pytest.fail("the window never closed")
    assert sent < 2.5 * STREAM_WINDOW
    assert other.half_closed is False
    assert made.receive(frame(DATA, 0, 3, message(b"still"))) == [(MESSAGE, other, (b"still", 0))]
    taken = 0
    while taken < sent // len(part):
        made.taken(lazy, 16_000)
        taken += 1
    assert any((kind, stream) == (WINDOW, 1) for kind, _, stream, _ in out(made)), "the window opens again"


def test_metadata_beyond_the_limit_is_not_kept():
    made = session()
    call = opened(made, 1, *((f"k{n}", "v" * 30) for n in range(260)), ("tail", "v"))
    assert call.oversized
    assert "tail" not in call.headers


def test_a_message_is_refused_at_its_length():
    made = session()
    call = opened(made)
    assert made.receive(frame(DATA, 0, 1, message(b"x")[:1] + b"\x7f\xff\xff\xff")) == [(TOO_LARGE, call, 0x7FFFFFFF)]
    assert made.receive(frame(DATA, 0, 1, b"y" * 1000)) == []
    call = opened(made, 3)
    assert made.receive(frame(DATA, 0, 3, message(b"x", 2))) == [(BAD_FRAME, call, 1)]


def test_what_is_not_http2_ends_it():
    for wrong in (b"GET / HTTP/1.1\r\n\r\n" + bytes(24), PREFACE[:20] + b"xxxx"):
        made = Session(Rpc, most_metadata=1, most_message=1, streams=1)
        with pytest.raises(ProtocolError):
            made.receive(wrong)


def test_a_fault_of_the_connection_is_said_and_ends_it():
    made = session()
    assert made.receive(frame(DATA, 0, 0, b"x")) == []
    assert [kind for kind, *_ in out(made)] == [GOAWAY]
    assert made.over


def test_frames_for_nothing_are_counted():
    made = session()
    before = made.chatter
    made.receive(frame(SETTINGS) * 3 + frame(PING, 0, 0, bytes(8)) * 2)
    assert made.chatter == before + 5
    opened(made)
    assert made.chatter == 0
    made.receive(frame(DATA, 0, 1) * 4)
    assert made.chatter == 4


def test_a_farewell_takes_what_is_on_its_way():
    made = session()
    call = opened(made)
    made.farewell()
    made.ping()
    said = out(made)
    assert [(kind, payload[:4]) for kind, _, _, payload in said if kind == GOAWAY] == [(GOAWAY, b"\x7f\xff\xff\xff")]
    late = opened(made, 3)
    (ping,) = (payload for kind, _, _, payload in said if kind == PING)
    assert made.receive(frame(PING, 1, 0, ping)) == [(PONGED, None, None)]
    made.goaway()
    assert [(kind, payload[:4]) for kind, _, _, payload in out(made)] == [(GOAWAY, b"\0\0\0\x03")]
    assert made.receive(head(5)) == [], "it came too late"
    for each in (call, late):
        assert not made.over
        made.answer(each, (), b"", OK)
        out(made)
    assert made.over


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("99999999S", 99999999)],
)
def test_timeouts(text, seconds):
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "\u0661S"])
def test_timeouts_that_are_none(text):
    assert seconds_of(text) is None


def test_a_lost_connection_loses_its_calls():
    made = session()
    calls = [opened(made, 1), opened(made, 3)]
    assert made.lost() == calls
    assert all(call.gone for call in calls)
    made.write(calls[0], b"late")
    made.finish(calls[0], OK)
    made.reset(calls[1], 8)
    assert not made.calls
