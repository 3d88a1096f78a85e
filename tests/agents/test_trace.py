"""The trace: numbered without a gap, fit for JSON, without secrets, and never without an end."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.trace import EVENT_TYPES, MAX_DATA, MAX_LABEL, MAX_STRING, Event, Trace, Usage
from agents.values import redaction

SECONDS = 10.0
SECRET = "correct-horse-battery-staple"


class Sink:
    """Keeps everything, and looks whether seq grows by one while it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.texts: list[tuple[str, str]] = []
        self.in_flight: list[int] = []
        self.on_event: Callable[[Event], None] = lambda event: None

    def event(self, event: Event) -> None:
        self.on_event(event)
        self.events.append(event)

    def activity(self, trace: Trace) -> None:
        self.in_flight.append(len(trace.in_flight()))

    def text(self, trace: Trace, call: str, text: str) -> None:
        self.texts.append((call, text))

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]


def new_trace(sink: Sink | None = None, **options: Any) -> tuple[Trace, Sink]:
    sink = sink or Sink()
    return Trace("0192-run-000000000042", "writer", sink, **options), sink


@pytest.fixture
def secret() -> Iterator[str]:
    redaction.add_secret(SECRET)
    yield SECRET
    redaction.forget_secrets()


# --- numbers ----------------------------------------------------------------------------------


def test_an_event_says_whose_it_is_and_when() -> None:
    trace, sink = new_trace(depth=2)
    before = datetime.now(UTC)
    event = trace.emit("progress", {"done": 1}, source="agent")
    assert event is sink.events[0]
    assert before <= event.ts <= datetime.now(UTC)
    wire = event.as_dict()
    assert datetime.fromisoformat(wire.pop("ts")) == event.ts
    assert wire == {
        "run": "0192-run-000000000042",
        "seq": 1,
        "type": "progress",
        "agent": "writer",
        "depth": 2,
        "source": "agent",
        "data": {"done": 1},
    }


def test_numbers_go_on_where_an_earlier_attempt_has_ended() -> None:
    trace, sink = new_trace(last_seq=41)
    trace.emit("agent_start")
    assert sink.seqs == [42]


def test_an_unknown_type_is_refused_and_takes_no_number() -> None:
    trace, sink = new_trace()
    with pytest.raises(ValueError, match="no_such_type"):
        trace.emit("no_such_type")
    trace.emit("log")
    assert sink.seqs == [1]


def test_numbers_have_no_gap_and_come_in_order_from_many_threads() -> None:
    trace, sink = new_trace()
    start = threading.Barrier(8)

    def emit(name: int) -> None:
        start.wait(SECONDS)
        for number in range(200):
            trace.emit("log", {"message": f"{name}.{number}"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(emit, range(8), timeout=SECONDS))
    assert sink.seqs == list(range(1, 1601))
    for name in range(8):  # and no thread overtakes itself
        own = [e.data["message"] for e in sink.events if e.data["message"].startswith(f"{name}.")]
        assert own == [f"{name}.{number}" for number in range(200)]


def test_what_a_finaliser_logs_while_an_event_is_written_comes_after_it() -> None:
    """The garbage collector runs where garbage is made, under this trace's own lock too."""
    trace, sink = new_trace()

    class Finalised:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            trace.emit("log", {"message": "finalised"})

    def collect() -> None:
        gc.collect()

    def write() -> None:
        Finalised()
        sink.on_event = lambda event: collect() if event.seq == 1 else None
        trace.emit("log", {"message": "first"})
        trace.emit("log", {"message": "last"})

    gc.collect()
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "the thread waits for a lock that it holds itself"
    assert sink.seqs == [1, 2, 3]
    assert [event.data["message"] for event in sink.events] == ["first", "finalised", "last"]


# --- the cap ----------------------------------------------------------------------------------


def test_events_beyond_the_cap_are_left_out_visibly() -> None:
    trace, sink = new_trace(max_events=3)
    events = [trace.emit("log", {"message": number}) for number in range(6)]
    assert sink.types == ["log", "log", "log", "truncated"]
    assert sink.events[-1].data == {"max_events": 3}
    assert events[3:] == [None, None, None]
    assert trace.dropped_count == 3
    assert sink.seqs == [1, 2, 3, 4]


def test_what_a_run_cant_be_understood_without_is_written_beyond_the_cap() -> None:
    trace, sink = new_trace(max_events=1)
    for type_ in EVENT_TYPES:
        trace.emit(type_)
    essential = ["error", "stop_requested", "stop_observed", "truncated", "agent_end"]
    assert [t for t in sink.types if t in essential] == [
        "truncated",
        "error",
        "stop_requested",
        "stop_observed",
        "truncated",
        "agent_end",
    ]
    assert not {"llm_call", "data_store", "http", "stdout", "loop_blocked"} & set(sink.types)
    assert sink.types[-1] == "agent_end"


def test_the_cap_is_told_once_by_many_threads() -> None:
    trace, sink = new_trace(max_events=50)

    def emit(_: int) -> None:
        for _ in range(50):
            trace.emit("log")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(emit, range(8), timeout=SECONDS))
    assert sink.types.count("truncated") == 1
    assert sink.types.count("log") == 50
    assert trace.dropped_count == 8 * 50 - 50
    assert sink.seqs == list(range(1, 52))


# --- the end ----------------------------------------------------------------------------------


def test_a_closed_trace_takes_nothing_any_more() -> None:
    trace, sink = new_trace()
    trace.emit("agent_end")
    assert trace.close() == 1
    assert trace.emit("log") is None
    assert trace.emit("agent_end") is None
    trace.text("call", "late")
    assert (sink.types, sink.texts) == (["agent_end"], [])
    assert trace.close() == 1


def test_close_returns_the_last_number_in_either_order() -> None:
    for _ in range(200):
        trace, sink = new_trace()
        start = threading.Barrier(3)

        def emit(trace: Trace = trace, start: threading.Barrier = start) -> None:
            start.wait(SECONDS)
            for _ in range(20):
                trace.emit("log")

        def close(trace: Trace = trace, start: threading.Barrier = start) -> int:
            start.wait(SECONDS)
            return trace.close()

        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(work) for work in (emit, close, emit)]
            last = futures[1].result(SECONDS)
        assert sink.seqs == list(range(1, last + 1))


# --- what events hold -------------------------------------------------------------------------


class Hostile:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    __str__ = __repr__


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.datetimes(),
        st.builds(Hostile, st.sampled_from([ValueError("no"), RecursionError()])),
        st.builds(object),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), ANYTHING, max_size=5))
def test_whatever_it_is_given_it_writes_json_that_every_database_can_hold(
    data: dict[str, Any],
) -> None:
    trace, sink = new_trace()
    assert trace.emit("log", data) is not None
    text = json.dumps(sink.events[0].as_dict(), allow_nan=False)
    assert "\\u0000" not in text
    text.encode()


def test_an_event_does_not_change_with_what_it_was_made_from() -> None:
    trace, sink = new_trace()
    data: dict[str, Any] = {"list": [1]}
    trace.emit("log", data)
    data["list"].append(2)
    data["more"] = 1
    assert sink.events[0].data == {"list": [1]}


def test_a_text_that_is_too_long_is_cut_visibly() -> None:
    trace, sink = new_trace()
    trace.emit("log", {"message": "x" * (MAX_STRING + 5), "deep": [["y" * (MAX_STRING + 1)]]})
    data = sink.events[0].data
    assert data["message"] == "x" * MAX_STRING + "… [5 more characters]"
    assert data["deep"][0][0].endswith("… [1 more characters]")
    trace.emit("log", {"message": "x" * MAX_STRING})
    assert sink.events[1].data["message"] == "x" * MAX_STRING


def test_an_event_as_a_whole_has_a_size_too() -> None:
    trace, sink = new_trace()
    trace.emit("log", {"message": ["x" * MAX_STRING] * 100, "end": 1})
    text = json.dumps(sink.events[0].data)
    assert len(text) < MAX_DATA
    assert "more characters]" in text
    trace.emit("log", {"message": ["x"] * 300_000})
    text = json.dumps(sink.events[1].data)
    assert len(text) < MAX_DATA
    assert "more items]" in text


def test_secrets_are_taken_out_of_data_labels_and_streamed_text(secret: str) -> None:
    trace, sink = new_trace()
    trace.emit("log", {"message": f"key {secret}!", "deep": {"list": [secret]}, "password": "x"})
    call = trace.begin("http", f"GET {secret}", datetime.now(UTC))
    trace.text(call, f"the key is {secret}")
    assert secret not in json.dumps(sink.events[0].as_dict())
    assert sink.events[0].data["message"] == "key [redacted]!"
    assert sink.events[0].data["password"] == "[redacted]"
    assert trace.in_flight()[0]["label"] == "GET [redacted]"
    assert sink.texts == [(call, "the key is [redacted]")]


@pytest.mark.parametrize("before", range(1, len(SECRET)))
def test_a_secret_that_lies_across_the_cut_leaves_no_half(secret: str, before: int) -> None:
    trace, sink = new_trace()
    trace.emit("log", {"message": "x" * (MAX_STRING - before) + secret + "y" * 10})
    trace.begin("http", "x" * (MAX_LABEL - before) + secret, datetime.now(UTC))
    for text in (sink.events[0].data["message"], trace.in_flight()[0]["label"]):
        assert not text.lstrip("x").startswith(secret[:before])


# --- what is going on -------------------------------------------------------------------------


def test_calls_in_flight_are_told_oldest_first_until_they_end() -> None:
    trace, sink = new_trace()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    first = trace.begin("call_llm", "llama3", at)
    second = trace.begin("http", "GET example.org", at)
    assert first != second
    assert trace.in_flight() == [
        {"call": first, "tool": "call_llm", "label": "llama3", "started_at": at.isoformat()},
        {"call": second, "tool": "http", "label": "GET example.org", "started_at": at.isoformat()},
    ]
    trace.end(first)
    trace.end(first)
    assert [call["call"] for call in trace.in_flight()] == [second]
    trace.end(second)
    assert sink.in_flight == [1, 2, 1, 1, 0]
    assert sink.events == [], "what is going on now is no event"


def test_calls_of_many_threads_have_ids_of_their_own() -> None:
    trace, _ = new_trace()

    def begin(_: int) -> list[str]:
        return [trace.begin("http", "", datetime.now(UTC)) for _ in range(200)]

    with ThreadPoolExecutor(4) as pool:
        calls = [call for some in pool.map(begin, range(4), timeout=SECONDS) for call in some]
    assert len(set(calls)) == 800
    assert len(trace.in_flight()) == 800


def test_usage_adds_up_and_stays_estimated_once_it_was() -> None:
    trace, _ = new_trace()

    def add(_: int) -> None:
        for _ in range(500):
            trace.emit("llm_call", usage=Usage(1, 2, 3))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4), timeout=SECONDS))
    assert trace.usage.as_dict() == {
        "llm_calls": 2000,
        "input_tokens": 4000,
        "output_tokens": 6000,
        "estimated": False,
    }
    trace.emit("llm_call", usage=Usage(1, 1, 1, estimated=True))
    trace.emit("llm_call", usage=Usage(1, 1, 1))
    assert trace.usage.estimated is True


def test_usage_does_not_run_ahead_of_the_events() -> None:
    trace, sink = new_trace()

    def talk(_: int) -> None:
        for _ in range(2000):
            trace.emit("llm_call", usage=Usage(1, 2, 3))

    with ThreadPoolExecutor(3) as pool:
        talks = [pool.submit(talk, number) for number in range(3)]
        while not all(one.done() for one in talks):
            with trace.paused():
                assert trace.usage.llm_calls == len(sink.events)
    assert trace.usage.llm_calls == 6000
    trace.close()
    trace.emit("llm_call", usage=Usage(1, 2, 3))
    assert trace.usage.llm_calls == 6000


def test_what_models_have_said_is_kept_while_the_call_goes_on() -> None:
    trace = Trace("r", "a", Sink())
    call = trace.begin("call_llm", "m", datetime.now(UTC))
    trace.text(call, "Once ")
    trace.text(call, "upon")
    trace.text("no call", "lost")
    assert trace.texts_after({}) == {call: (0, "Once upon")}
    assert trace.text_length(call) == 9
    trace.end(call)
    assert trace.texts_after({}) == {}
    assert trace.text_length(call) == 0


def test_text_after_a_position_is_what_was_said_since() -> None:
    trace = Trace("r", "a", Sink())
    call = trace.begin("call_llm", "m", datetime.now(UTC))
    whole = ""
    for number in range(50):
        trace.text(call, f"{number} ")
        whole += f"{number} "
        for start in (0, len(whole) // 2, len(whole) - 1, len(whole)):
            assert trace.texts_after({call: start}) == {call: (start, whole[start:])}
    long = "x" * 300_000
    trace.text(call, long)
    trace.text(call, "not kept")
    assert trace.texts_after({call: len(whole)})[call] == (len(whole), long)
    assert trace.texts_after({call: 10**6})[call] == (10**6, "")


def test_a_listener_hears_of_each_event_even_if_the_log_is_full() -> None:
    sink, heard = Sink(), []

    def listen(kind: str, data: Mapping[str, Any]) -> None:
        heard.append((kind, dict(data)))

    trace = Trace("r", "a", sink, max_events=1)
    trace.listener = listen
    for number in range(3):
        trace.emit("http", {"number": number})
    trace.close()
    trace.emit("agent_start")
    assert heard == [*[("http", {"number": number}) for number in range(3)], ("agent_start", {})]
    assert [event.type for event in sink.events] == ["http", "truncated"]
