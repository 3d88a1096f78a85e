"""Text of a run in another process: late, lost, doubled, and never behind the end of its call."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents.guard import Guard
from agents.trace import Trace
from runs.delivery import audience, local_runs, notify, relay
from runs.delivery.local_runs import ActiveRun
from runs.web.feed import Hub, hearing, texts, watching
from runs.web.feed import tail as tail_module
from runs.web.feed.tail import RunTail, model_call
from tests.support.feeds import Client, Reader, Writer, settle, turns

RUN = uuid.uuid4()
USAGE: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "TEXT_SECONDS", 0.0)


def _call(name: str) -> Any:
    return {"call": name, "tool": "call_llm", "label": "m", "started_at": "now"}


def _told(tail: RunTail) -> str:
    return "".join(json.loads(frame.data)["text"] for frame in tail.texts.behind(0))


class TestTail:
    async def test_tells_it_once_the_call_is_known(self) -> None:
        tail = RunTail(RUN)
        assert tail.texts.take("a", "1", 0, "early ")
        await turns(3)
        assert _told(tail) == ""
        assert tail.texts.so_far() == []
        tail.set_activity([_call("1")], USAGE)
        await turns(3)
        assert _told(tail) == "early "
        assert tail.texts.take("a", "1", 6, "bird")
        await turns(3)
        assert _told(tail) == "early bird"

    async def test_takes_each_character_once(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        for start, text in ((0, "abc"), (0, "abc"), (2, "cde"), (0, "abcdefg"), (7, "h")):
            assert tail.texts.take("a", "1", start, text)
            await turns(3)
        assert _told(tail) == "abcdefgh"

    async def test_says_when_a_piece_is_missing(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        assert tail.texts.take("a", "1", 0, "abc")
        assert not tail.texts.take("a", "1", 5, "fg")
        assert tail.texts.take("a", "1", 0, "abcdefg")
        await turns(3)
        assert _told(tail) == "abcdefg"

    async def test_tells_nothing_behind_the_end_of_a_call(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1"), _call("2")], USAGE)
        tail.texts.take("a", "1", 0, "one")
        tail.texts.take("a", "2", 0, "two")
        await turns(5)
        tail.texts.end("1")  # its event
        tail._activity_timer = None
        tail.set_activity([], USAGE)
        before = tail.texts.count
        for call in ("1", "2"):
            assert tail.texts.take("a", call, 3, " more")
            assert tail.texts.take("a", call, 0, "all of it")
            tail.texts.add("a", call, "x")
            tail.texts.begin("a", call, "x")
        await turns(5)
        assert tail.texts.count == before
        assert tail.texts.so_far() == []
        tail.close()

    async def test_holds_little_of_calls_that_nobody_knows(self) -> None:
        tail = RunTail(RUN)
        for number in range(500):
            tail.texts.take("a", f"call {number}", 0, "x" * 1_000)
        assert len(tail.texts._talking) == texts.MOST_UNSURE

    async def test_an_answer_without_end_is_not_asked_for_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(texts, "MOST_CHARACTERS", 10)
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        assert tail.texts.take("a", "1", 0, "x" * 20)
        assert tail.texts.take("a", "1", 20, "x" * 20)
        assert tail.texts.take("a", "1", 40, "x" * 20)


def test_the_end_of_a_model_s_call_is_read_from_its_event() -> None:
    def event(type: str, /, **data: Any) -> str:
        return json.dumps({"type": type, "data": data}, separators=(",", ":"))

    assert model_call(event("llm_call", call="x.1")) == "x.1"
    assert model_call(event("http", call="x.1")) == ""
    assert model_call(event("log", type="llm_call", call="x.1")) == ""
    assert model_call(event("log", message='"type":"llm_call"')) == ""


class TestFeed:
    """A run that another process has: here are only its record and what the other one sends."""

    async def test_of_a_run_elsewhere_shows_text_until_the_call_s_event(
        self, writer: Writer, hub: Hub
    ) -> None:
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "Once upon ")
        await settle(hub, reader)
        late = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late)
        assert reader.client.texts == late.client.texts == {call: "Once upon "}
        await self.bring(hub, run, call, 10, "a time")
        writer.end_call(run.pk)
        writer.flush()
        await settle(hub, reader, late)
        await self.bring(hub, run, call, 16, " there was")
        await self.bring(hub, run, call, 0, "Once upon a time there was")
        newest = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late, newest)
        assert reader.client.texts == late.client.texts == {call: "Once upon a time"}
        assert newest.client.texts == {}
        reader.client.wait_is_true(str(run.pk), with_input=True)
        writer.end(run.pk)
        await settle(hub, reader, late, newest)
        assert reader.client.is_ended

    async def test_its_last_words_come_before_the_event_of_their_call(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when the record's news of what is in flight is held back for moderation."""
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        monkeypatch.setattr(texts, "TEXT_SECONDS", 3600.0)
        monkeypatch.setattr(tail_module, "ACTIVITY_SECONDS", 3600.0)
        other = writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "Once upon ")
        await self.bring(hub, run, call, 10, "a time")
        writer.end_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        assert other != call
        assert reader.client.texts == {call: "Once upon a time"}
        types = reader.client.types
        assert types.count("trace") == 2
        assert types[::-1].index("trace") < types[::-1].index("text")

    async def test_nothing_is_left_of_the_text_of_a_lost_worker(
        self, writer: Writer, hub: Hub
    ) -> None:
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.flush()
        reader = Reader(Client(), hub, run, "socket")
        await settle(hub, reader)
        await self.bring(hub, run, call, 0, "unfinished")
        await settle(hub, reader)
        writer.lose(run.pk)
        await settle(hub, reader)
        writer.begin(is_elsewhere=True)
        again = writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        await self.bring(hub, run, call, 10, " business")  # of a worker that does not know it
        await self.bring(hub, run, again, 0, "afresh")
        late = Reader(Client(), hub, run, "socket")
        await settle(hub, reader, late)
        assert again != call
        assert reader.client.texts == {call: "unfinished", again: "afresh"}
        assert late.client.texts == {again: "afresh"}

    async def bring(self, hub: Hub, run: Any, call: str, start: int, text: str) -> None:
        pieces = [[str(run.pk), run.agent, call, start, text]]
        await hub._hearing._take({"type": "feed.text", "from": "another", "pieces": pieces})
        await turns(5)


class Post:
    """Takes the relay's place: keeps what is sent, and what is to be done later."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.due: list[tuple[float, Any]] = []
        patch.setattr(relay, "send", lambda group, message, **_: self.sent.append((group, message)))
        patch.setattr(relay, "call_later", lambda seconds, work: self.due.append((seconds, work)))

    def do(self, *, all: bool = False) -> None:
        """Let a moment pass; with ``all``, as long as it takes."""
        due, self.due = self.due, []
        for seconds, work in due:
            if all or seconds < 1:
                work()
            else:
                self.due.append((seconds, work))

    def texts(self, process: str) -> list[tuple[str, int, str]]:
        """Return call, start and text of what a process was sent since the last time."""
        group = audience.text_group(process)
        found = [m for g, m in self.sent if g == group]
        self.sent = [(g, m) for g, m in self.sent if g != group]
        return [(call, start, text) for m in found for _, _, call, start, text in m["pieces"]]


class _Sink:
    """Publishes the text of a trace, as a recorder does."""

    def event(self, event: Any) -> None: ...

    def activity(self, trace: Trace) -> None: ...

    def text(self, trace: Trace, call: str, text: str) -> None:
        notify.publish_text(trace.run, trace.agent, call, text)


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    monkeypatch.setattr(audience, "_audience", audience._Audience())
    return Post(monkeypatch)


@pytest.fixture
def trace(alice: User) -> Any:
    run = uuid.uuid4()
    trace = Trace(str(run), "talker", _Sink())
    entry = ActiveRun(run, uuid.uuid4())
    entry.guard = Guard(entry.token, trace)
    local_runs.add(entry)
    yield trace
    local_runs.remove(run)


def _watch(trace: Trace, process: str, what: str = "runs") -> None:
    audience.hear_of_watching({"type": "feed.watch", "from": process, what: [trace.run]})


class TestAudience:
    """The process that has the run."""

    def test_nobody_is_sent_anything_unasked(self, post: Post, trace: Trace) -> None:
        call = trace.begin("call_llm", "m", datetime.now(UTC))
        trace.text(call, "word")
        notify.publish_progress([trace.run])
        assert not post.due
        assert not post.sent

    def test_who_watches_gets_what_was_said_and_then_what_is_new(
        self, post: Post, trace: Trace
    ) -> None:
        call = trace.begin("call_llm", "m", datetime.now(UTC))
        trace.text(call, "Once ")
        _watch(trace, "web")
        post.do()
        assert post.texts("web") == [(call, 0, "Once ")]
        for word in ("upon ", "a ", "time"):
            trace.text(call, word)
        post.do()
        assert post.texts("web") == [(call, 5, "upon a time")]  # in one piece
        _watch(trace, "web")  # renewed
        post.do()
        assert post.texts("web") == [(call, 16, "")], "so far it has come"
        post.do()
        assert post.texts("web") == []
        _watch(trace, "other")
        post.do()
        assert post.texts("other") == [(call, 0, "Once upon a time")]
        assert post.texts("web") == []
        _watch(trace, "web", "anew")
        post.do()
        assert post.texts("web") == [(call, 0, "Once upon a time")]
        trace.end(call)
        trace.text(call, "too late")
        post.do()
        assert post.texts("web") == post.texts("other") == []

    def test_very_much_comes_in_several_messages(
        self, post: Post, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audience, "MOST_CHARACTERS", 10)
        _watch(trace, "web")
        calls = [trace.begin("call_llm", "m", datetime.now(UTC)) for _ in range(2)]
        for call in calls:
            trace.text(call, "abcdefghijklmno")
        got = dict.fromkeys(calls, "")
        for _ in range(5):
            post.do()
            pieces = post.texts("web")
            assert sum(len(text) for _, _, text in pieces) <= 10
            for call, start, text in pieces:
                assert start == len(got[call])
                got[call] += text
        assert set(got.values()) == {"abcdefghijklmno"}

    def test_who_ceases_to_ask_is_forgotten(
        self, post: Post, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1_000.0
        monkeypatch.setattr(audience.time, "monotonic", lambda: now)
        call = trace.begin("call_llm", "m", datetime.now(UTC))
        _watch(trace, "web")
        post.do()
        now += audience.FORGET_SECONDS + 1
        trace.text(call, "word")
        post.do()
        assert post.texts("web") == []
        post.do(all=True)
        assert not audience.is_watched(trace.run)
        assert not post.due, "nothing goes on behind the last one"

    def test_what_is_in_flight_is_told_once_it_is_committed(
        self, post: Post, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        monkeypatch.setattr(relay, "tell_of_log", told.append)
        notify.publish_progress([trace.run])
        assert told == []
        _watch(trace, "web")
        notify.publish_progress([trace.run, str(uuid.uuid4())])
        assert told == [trace.run]


class SlowLayer:
    """A channel layer in which one is heard only some time after one has asked for it."""

    def __init__(self) -> None:
        self.subscribed = asyncio.Event()
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def new_channel(self) -> str:
        return "channel"

    async def group_add(self, group: str, channel: str) -> None:
        await self.subscribed.wait()

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self.messages.get()


class TestBothEnds:
    """The process that has the run and the one that watches it, with messages that get lost."""

    @pytest.fixture
    def layer(self, monkeypatch: pytest.MonkeyPatch) -> SlowLayer:
        layer = SlowLayer()
        for module in (hearing, watching):
            monkeypatch.setattr(module, "get_channel_layer", lambda: layer)
        return layer

    @pytest.fixture
    def call(self, writer: Writer, post: Post, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
        """A run in another process, and a call in which its model has said something."""
        run = writer.queue()
        writer.begin(is_elsewhere=True)
        call = writer.begin_call(run.pk)
        writer.say(run.pk, "Once upon ")
        writer.flush()
        # Both processes are this one, in which the run is not among the active ones.
        monkeypatch.setattr(audience, "_trace", lambda run: writer.held[uuid.UUID(run)].trace)
        return run, call

    async def pass_on(self, hub: Hub, post: Post, layer: SlowLayer, reader: Reader) -> None:
        """Bring what is sent to either side until nothing is; to nobody who does not listen."""
        for _ in range(5):
            await settle(hub, reader)
            await asyncio.sleep(2 * watching.SOON_SECONDS)
            post.do()
            sent, post.sent = post.sent, []
            for _, message in sent:
                if message["type"] == "feed.watch":
                    audience.hear_of_watching(message)
                elif layer.subscribed.is_set():
                    layer.messages.put_nowait({**message, "from": "another"})

    async def test_text_is_asked_for_again_by_who_begins_to_listen_only_later(
        self, call: tuple[Any, str], hub: Hub, post: Post, layer: SlowLayer
    ) -> None:
        run, name = call
        reader = Reader(Client(), hub, run, "socket")
        await self.pass_on(hub, post, layer, reader)
        assert reader.client.texts == {}, "it came to nobody"
        layer.subscribed.set()
        await self.pass_on(hub, post, layer, reader)
        assert reader.client.texts == {name: "Once upon "}

    async def test_text_that_was_lost_is_asked_for_again_although_nothing_follows(
        self, writer: Writer, call: tuple[Any, str], hub: Hub, post: Post, layer: SlowLayer
    ) -> None:
        run, name = call
        layer.subscribed.set()
        reader = Reader(Client(), hub, run, "socket")
        await self.pass_on(hub, post, layer, reader)
        assert reader.client.texts == {name: "Once upon "}
        writer.say(run.pk, "a time")
        layer.subscribed.clear()
        audience.note_text(str(run.pk))
        await self.pass_on(hub, post, layer, reader)
        layer.subscribed.set()
        await self.pass_on(hub, post, layer, reader)
        assert reader.client.texts == {name: "Once upon "}, "it was lost"
        await hub._watching.renew()
        await self.pass_on(hub, post, layer, reader)
        assert reader.client.texts == {name: "Once upon a time"}


def test_text_behind_a_position_is_what_was_said_since(alice: User) -> None:
    trace = Trace(str(RUN), "talker", _Sink())
    call = trace.begin("call_llm", "m", datetime.now(UTC))
    whole = ""
    for number in range(50):
        trace.text(call, f"{number} ")
        whole += f"{number} "
        for start in (0, len(whole) // 2, len(whole) - 1, len(whole)):
            assert trace.texts_behind({call: start}) == {call: (start, whole[start:])}
    long = "x" * 300_000
    trace.text(call, long)
    trace.text(call, "not kept")
    assert trace.texts_behind({call: len(whole)})[call] == (len(whole), long)
    assert trace.texts_behind({call: 10**6})[call] == (10**6, "")
