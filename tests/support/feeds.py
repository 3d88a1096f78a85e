"""Followers of the live feed without a server: a writer of runs, a client, and the hub in between.

Reads happen at once, on the loop, after a random number of its turns: thousands of interleavings
can be tried in a second, and a failing one comes again with the same seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

from django.contrib.auth.models import User
from django.db import connection, transaction

from agents.guard import Guard
from agents.runtime import Outcome
from agents.trace import Trace, Usage
from runs.actions import leases, stopping
from runs.actions.finishing import finish, finish_lost
from runs.delivery import local_runs, notify
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopRequest
from runs.models import RunInput, RunRecord, StopVia, WorkerRecord
from runs.status import Status
from runs.web.feed import Cursor, Follower, Frame, Hub, View, Viewer, get_hub
from runs.web.feed import hub as hub_module
from runs.web.feed import tail as tail_module
from runs.web.feed import texts as texts_module
from runs.web.feed.frames import as_page_message, as_server_sent, as_socket_message
from runs.wire import LARGE, get_for_wire, run_as_dict
from runs.worker.recorder import Recorder
from tests.support.rows import make_run, make_worker

__all__ = [
    "Client",
    "LossyListener",
    "Reader",
    "Wire",
    "Writer",
    "at_once",
    "in_database",
    "parse_server_sent",
    "settle",
    "turns",
]

Wire = Literal["socket", "page", "sse"]


class Writer:
    """Does to runs what workers and doors do, step by step, through the real tables.

    ``is_elsewhere`` runs are another process's: nothing of them is known here but what is written.
    """

    def __init__(self, owner: User) -> None:
        self.owner = owner
        self.worker: WorkerRecord = make_worker()
        self.recorder = Recorder(on_lost=lambda run: None)  # not started: ``flush`` is its thread
        self.held: dict[uuid.UUID, _Held] = {}

    def queue(self, **fields: Any) -> RunRecord:
        run = make_run(self.owner, requeue_on_loss=True, max_attempts=9, **fields)
        notify.publish_changes([(run.pk, run.root_id)])
        return run

    def begin(self, *, is_elsewhere: bool = False) -> None:
        """Claim what is queued, and call its agents."""
        with _unnoticed(is_elsewhere):
            records = leases.claim(self.worker.pk, 100)
        for record in records:
            self._open(record, is_elsewhere)

    def bear(self, parent: uuid.UUID) -> RunRecord:
        """Let a held run call another."""
        above = self.held[parent]
        record = RunRecord.objects.get(pk=parent)
        with _unnoticed(above.is_elsewhere), transaction.atomic():
            run = make_run(
                self.owner, status=Status.RUNNING, worker=self.worker, parent=record, agent="child"
            )
        changed = [] if above.is_elsewhere else [(run.pk, run.root_id)]
        if not above.is_elsewhere:
            local_runs.add(ActiveRun(run.pk, self.worker.pk))
        self._open(run, above.is_elsewhere)
        notify.publish_changes(changed)
        return run

    def _open(self, record: RunRecord, is_elsewhere: bool) -> None:
        entry = local_runs.get(record.pk) or ActiveRun(record.pk, self.worker.pk, record.attempt)
        if is_elsewhere:
            local_runs.remove(record.pk)
        trace = Trace(
            str(record.pk),
            record.agent,
            self.recorder,
            record.depth,
            last_seq=record.last_seq,
            usage=Usage(record.llm_calls, record.input_tokens, record.output_tokens),
        )
        held = self.held[record.pk] = _Held(entry, trace, is_elsewhere)
        with _unnoticed(is_elsewhere):
            self.recorder.open(entry, trace)
            entry.guard = Guard(entry.token, trace)
            entry.token.add_callback(lambda _: self.recorder.activity(trace))
            trace.emit("agent_start")
        held.calls.clear()

    def log(self, run: uuid.UUID, count: int, size: int = 5) -> None:
        held = self.held[run]
        with _unnoticed(held.is_elsewhere):
            for number in range(count):
                held.trace.emit("log", {"level": "info", "message": f"{number} " + "x" * size})

    def begin_call(self, run: uuid.UUID) -> str:
        held = self.held[run]
        with _unnoticed(held.is_elsewhere):
            call = held.trace.begin("call_llm", "small", RunRecord.objects.get(pk=run).created_at)
        held.calls.append(call)
        return call

    def say(self, run: uuid.UUID, text: str) -> None:
        held = self.held[run]
        with _unnoticed(held.is_elsewhere):
            held.trace.text(held.calls[0], text)

    def end_call(self, run: uuid.UUID) -> None:
        held = self.held[run]
        call = held.calls.pop(0)
        with _unnoticed(held.is_elsewhere):
            held.trace.end(call)
            data = {"call": call, "tool": "call_llm", "outcome": "ok"}
            held.trace.emit("llm_call", data, usage=Usage(1, 3, 5))

    def request_stop(self, run: uuid.UUID, by: User | None = None) -> None:
        stopping.request_stop(
            run, via=StopVia.API, by=by or self.owner, reason="enough", check_permission=False
        )
        for id, held in self.held.items():
            record = RunRecord.objects.select_related("stop_requested_by").get(pk=id)
            if held.is_elsewhere and record.stop_requested and not record.is_terminal:
                with _unnoticed(True):
                    held.entry.deliver(StopRequest.of(record))

    def observe(self, run: uuid.UUID) -> None:
        held = self.held[run]
        held.entry.token.observe("call_llm", "small")
        with _unnoticed(held.is_elsewhere):
            held.trace.emit("stop_observed", {"tool": "call_llm", "label": "small"})

    def flush(self) -> None:
        """Write and publish what the recorder has, of each process by itself."""
        recorder = self.recorder
        books = list(recorder._changed.values())
        recorder._changed.clear()
        recorder._count, recorder._urgent = 0, False
        for elsewhere in (False, True):
            some = [b for b in books if self._is_elsewhere(b.trace.run) is elsewhere]
            with _unnoticed(elsewhere):
                for book in some:
                    recorder._write([book])

    def _is_elsewhere(self, run: str) -> bool:
        held = self.held.get(uuid.UUID(run))
        return held is not None and held.is_elsewhere

    def end(self, run: uuid.UUID, kind: Any = "success", **outcome: Any) -> None:
        held = self.held[run]
        for _ in list(held.calls):
            self.end_call(run)
        given = {"error": {"code": "x", "type": "X", "message": "x"}} if kind == "error" else {}
        with _unnoticed(held.is_elsewhere):
            self.recorder.end(held.trace, Outcome(kind, **given, **outcome), lambda ended: None)
        self.flush()
        del self.held[run]
        local_runs.remove(run)

    def lose(self, run: uuid.UUID) -> None:
        """Let the worker be lost that has a root: it is handed back, or ends."""
        held = self.held.pop(run)
        self.recorder._books.pop(str(run), None)
        self.recorder._changed.pop(str(run), None)
        local_runs.remove(run)
        with _unnoticed(held.is_elsewhere), transaction.atomic():
            record = RunRecord.objects.select_for_update(no_key=True).get(pk=run)
            finish([finish_lost(record, code="worker_lost")])

    def delete(self, run: uuid.UUID) -> None:
        RunInput.objects.filter(pk=run).delete()
        RunRecord.objects.filter(pk=run).delete()

    def close(self) -> None:
        for run in list(self.held):
            local_runs.remove(run)


class _Held:
    """A run whose agent is called."""

    def __init__(self, entry: ActiveRun, trace: Trace, is_elsewhere: bool) -> None:
        self.entry = entry
        self.trace = trace
        self.is_elsewhere = is_elsewhere
        self.calls: list[str] = []


@contextlib.contextmanager
def _unnoticed(is_elsewhere: bool) -> Iterator[None]:
    """Let no listener of this process receive updates meanwhile."""
    kept = list(notify._listeners)
    if is_elsewhere:
        notify._listeners.clear()
    try:
        yield
    finally:
        notify._listeners[:] = kept


class LossyListener:
    """Stands before the hub's own listener: keeps updates back, loses them, repeats them."""

    def __init__(self, hub: Hub, chance: random.Random) -> None:
        self._listener = hub.listener  # before the test puts another in its place
        self._chance = chance
        self._kept: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what: self._kept.append((name, what))

    def bring(self, *, loss: float = 0.0, twice: float = 0.0, mixed: bool = False) -> None:
        """Pass on what was kept, as well as it goes."""
        kept, self._kept = self._kept, []
        kept += [update for update in kept if self._chance.random() < twice]
        if mixed:
            self._chance.shuffle(kept)
        for name, what in kept:
            if self._chance.random() >= loss:
                getattr(self._listener, name)(*what)


class Client:
    """Puts together what a feed sends: snapshots, what is in flight, and events, each once."""

    def __init__(self, start: int = 0) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.seqs: dict[str, int] = {}
        self.start = start
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.texts: dict[str, str] = {}
        self.types: list[str] = []
        self.cursor = ""
        self.is_ended = False

    def connect(self) -> None:
        """Forget what each connection sends again."""
        self.texts.clear()

    def take(self, frame: dict[str, Any]) -> None:
        assert not self.is_ended, "something came after the end"
        self.types.append(frame["type"])
        match frame["type"]:
            case "run" | "end":
                self.runs[frame["run"]["id"]] = frame["run"]
                self.is_ended = frame["type"] == "end"
            case "activity":
                run = self.runs[frame["run"]]
                run |= {name: frame[name] for name in ("in_flight", "usage", "usage_tree")}
            case "trace":
                event = frame["event"]
                run, seq = event["run"], event["seq"]
                assert seq == self.seqs.get(run, self.start) + 1, "a gap, or twice"
                self.seqs[run] = seq
                self.events.setdefault(run, []).append(event)
                self.runs[run]["last_seq"] = max(seq, self.runs[run]["last_seq"])
            case "text":
                self.texts[frame["call"]] = self.texts.get(frame["call"], "") + frame["text"]
            case other:
                raise AssertionError(other)

    def wait_is_true(self, run: str, *, with_input: bool) -> None:
        """Compare what was put together with the record."""
        large = LARGE if with_input else LARGE[1:]
        record = get_for_wire(uuid.UUID(run))
        fresh = json.loads(json.dumps(run_as_dict(record, large)))
        if record.has_children and not record.is_terminal:
            # What the runs below have used since is in their own frames (docs/live-feed.md).
            fresh["usage_tree"] = self.runs[run]["usage_tree"]
        assert self.runs[run] == fresh


class Reader:
    """A connection of a client's, cut at any moment; what had been read by then is applied."""

    def __init__(
        self,
        client: Client,
        hub: Hub,
        run: RunRecord,
        wire: Wire,
        *,
        is_tree: bool = False,
    ) -> None:
        self.client = client
        self.wire = wire
        viewer = Viewer(run.owner_id, token="x", run=run.pk)
        view = View(is_page=wire == "page")
        cursor = Cursor.read(client.cursor or str(client.start), run.pk)
        self.follower = Follower(hub, viewer, cursor, is_tree=is_tree, view=view)
        self.error: BaseException | None = None
        self.heartbeats = 0
        self.messages: list[Any] = []  # on their way
        client.connect()
        self.task = hub._loop.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with contextlib.aclosing(self.follower.batches()) as batches:
                async for batch in batches:
                    self.messages += self._encode(batch)
                    await asyncio.sleep(0)
                    self.read()
        except Exception as error:
            self.error = error

    def read(self, count: int | None = None) -> None:
        """Apply what has arrived, or only the first ``count`` messages of it."""
        arrived = self.messages[:count]
        del self.messages[: len(arrived)]
        for message in arrived:
            self._apply(message)

    def _encode(self, frames: list[Frame]) -> list[Any]:
        if not frames:
            self.heartbeats += 1
        if self.wire == "page":
            return [json.loads(as_page_message(frames, self.follower.cursor))]
        if self.wire == "sse":
            return parse_server_sent(b"".join(as_server_sent(frames)).decode())
        return [json.loads(as_socket_message(frame)) for frame in frames]

    def _apply(self, message: Any) -> None:
        client = self.client
        if self.wire == "page":
            for frame in message.get("frames", ()):
                client.take(frame)
            client.cursor = message.get("cursor", client.cursor)
        elif self.wire == "sse":
            type, id, data = message
            named = {"trace": {"event": data}, "run": {"run": data}, "end": {"run": data}}
            client.take({"type": type, **named.get(type, data)})
            client.cursor = id or client.cursor
        else:
            client.take(message)
            if message["type"] == "trace":
                client.cursor = message.get("cursor", str(message["event"]["seq"]))

    async def cut(self, chance: random.Random) -> None:
        """Break off, in the middle of what is on its way."""
        self.read(chance.randint(0, len(self.messages)))
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        assert self.follower not in get_hub().readers


def parse_server_sent(text: str) -> list[tuple[str, str, Any]]:
    """Return (event, id, data) of each message; comments and ``retry`` are left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in block.split("\n")
            if line and not line.startswith((":", "retry"))
        )
        if fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


@contextlib.contextmanager
def at_once(patch: Any, chance: random.Random) -> Iterator[None]:
    """Let hubs read on their own loop, after a few turns of it; the test polls itself."""

    async def read(self: Hub, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for _ in range(chance.choice((0, 0, 1, 3, 8))):
            await asyncio.sleep(0)
        with not_in_a_loop():
            found = work(*args, **kwargs)
        for _ in range(chance.choice((0, 0, 1, 3, 8))):
            await asyncio.sleep(0)
        return found

    with patch.context() as patched:
        patched.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        patched.setattr(Hub, "read", read)
        patched.setattr(hub_module.rights, "find_lost", lambda viewers: {})
        for name in (
            *("POLL_SECONDS", "LIST_POLL_SECONDS", "WAITERS_POLL_SECONDS", "RIGHTS_SECONDS"),
        ):
            patched.setattr(hub_module, name, 3600.0)
        patched.setattr(texts_module, "TEXT_SECONDS", 0.0)
        patched.setattr(tail_module, "ACTIVITY_SECONDS", 0.0)
        yield


@contextlib.contextmanager
def not_in_a_loop() -> Iterator[None]:
    """Use the thread's own connection, as code outside coroutines does.

    Otherwise each task has its own connection, which is never given back.
    """
    loop = asyncio.get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


async def in_database(work: Callable[..., Any], *arguments: Any) -> Any:
    """Use the ORM in a thread, and leave no connection open."""

    def closing() -> Any:
        try:
            return work(*arguments)
        finally:
            connection.close()

    return await asyncio.to_thread(closing)


async def turns(count: int) -> None:
    """Let the loop make some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(hub: Hub, *readers: Reader) -> None:
    """Wait until all that was written has arrived."""
    for _ in range(3):
        await hub.refresher.poll()
        await hub.refresher.poll_lists()
        quiet = patience = 0
        before = -1
        while quiet < 60:
            patience += 1
            assert patience < 20_000, "it never settles"
            now = sum(len(r.client.types) for r in readers) + sum(
                tail.version + tail.activity_version for tail in hub.tails
            )
            is_busy = hub.refresher.is_due
            quiet = 0 if now != before or is_busy else quiet + 1
            before = now
            await asyncio.sleep(0)


def watch(hub: Hub, run: Any, wire: Wire = "socket", **options: Any) -> Reader:
    return Reader(Client(options.pop("start", 0)), hub, run, wire, **options)


def finished(writer: Writer, count: int) -> Any:
    """Return a run that is over, with ``count`` lines between its first and its last event."""
    run = writer.queue()
    writer.begin()
    writer.log(run.pk, count)
    writer.end(run.pk)
    run.refresh_from_db()
    return run
