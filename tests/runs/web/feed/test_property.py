"""THE property: a snapshot and the events after it are a fresh snapshot, whatever is lost.

Hypothesis plays the world: runs are born, work, are stopped, handed back and end, here or in
another process; updates are kept back, lost, doubled and out of order; connections break in the
middle of a message's burst and come back with their cursor.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runs.delivery import notify
from runs.events import read as read_events
from runs.models import RunRecord
from runs.status import ACTIVE, Status
from runs.web.feed import close_hub, get_hub
from tests.support.feeds import Client, LossyListener, Reader, Writer, at_once, settle, turns

EXAMPLES = 40
STEPS = 40
MOST_RUNS = 6


class World(RuleBasedStateMachine):
    """One tree of runs, and some who watch it."""

    owner: User
    patch: pytest.MonkeyPatch
    steps = 0

    @initialize(seed=st.integers(0, 2**32 - 1), is_elsewhere=st.booleans())
    def begin(self, seed: int, is_elsewhere: bool) -> None:
        self.chance = random.Random(seed)
        self._at_once = at_once(self.patch, self.chance)
        self._at_once.__enter__()
        self.loop = asyncio.new_event_loop()
        self.is_elsewhere = is_elsewhere
        self.writer = Writer(self.owner)
        self.root = self.writer.queue()
        self.count = 1
        self.clients: list[tuple[Client, dict[str, Any]]] = []
        self.readers: list[Reader] = []
        self.do(self._open_hub())

    async def _open_hub(self) -> None:
        self.hub = get_hub()
        self.listener = LossyListener(self.hub, self.chance)
        self.patch.setattr(self.hub, "listener", _Deaf())
        notify.add_listener(self.listener)  # type: ignore[arg-type]

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    def pick(self, what: Any) -> Any:
        return self.chance.choice(list(what))

    # The runs.

    @rule()
    def work_begins(self) -> None:
        self.writer.begin(is_elsewhere=self.is_elsewhere)

    @precondition(lambda self: self.writer.held and self.count < MOST_RUNS)
    @rule()
    def a_child_is_born(self) -> None:
        parent = self.pick(self.writer.held)
        record = RunRecord.objects.get(pk=parent)
        if not record.stop_requested:
            self.writer.bear(parent)
            self.count += 1

    @precondition(lambda self: self.writer.held)
    @rule(count=st.integers(1, 30), size=st.sampled_from([1, 1, 1, 9_000]))
    def events_happen(self, count: int, size: int) -> None:
        self.writer.log(self.pick(self.writer.held), count, size)

    @precondition(lambda self: self.writer.held)
    @rule()
    def a_call_begins_or_ends(self) -> None:
        run = self.pick(self.writer.held)
        if self.writer.held[run].calls and self.chance.random() < 0.6:
            self.writer.end_call(run)
        else:
            self.writer.begin_call(run)

    @precondition(lambda self: any(held.calls for held in self.writer.held.values()))
    @rule()
    def a_model_talks(self) -> None:
        run = self.pick(id for id, held in self.writer.held.items() if held.calls)
        self.writer.say(run, "word ")

    @rule()
    def it_is_written(self) -> None:
        self.writer.flush()

    @rule()
    def a_stop_is_asked_for(self) -> None:
        active = RunRecord.objects.filter(root=self.root.pk, status__in=ACTIVE)
        if active.exists() and self.chance.random() < 0.4:
            self.writer.request_stop(self.pick(active).pk)

    @precondition(lambda self: self.writer.held)
    @rule()
    def a_stop_is_observed(self) -> None:
        run = self.pick(self.writer.held)
        if self.writer.held[run].entry.token.stopped:
            self.writer.observe(run)

    @precondition(lambda self: self.writer.held)
    @rule()
    def a_leaf_ends(self) -> None:
        leaves = self.leaves()
        if len(leaves) < len(self.writer.held) or self.chance.random() < 0.15:
            self.end(self.pick(leaves))

    def leaves(self) -> list[Any]:
        callers = {
            record.parent_id for record in RunRecord.objects.filter(pk__in=list(self.writer.held))
        }
        return [id for id in self.writer.held if id not in callers]

    def end(self, run: Any) -> None:
        kind = "stopped" if self.writer.held[run].entry.token.stopped else "success"
        if kind == "success":
            kind = self.pick(["success", "error"])
        self.writer.end(run, kind)

    @precondition(lambda self: list(self.writer.held) == [self.root.pk])
    @rule()
    def its_worker_is_lost(self) -> None:
        if self.count == 1 and self.chance.random() < 0.5:
            self.writer.lose(self.root.pk)

    # The updates.

    @rule(
        loss=st.sampled_from([0.0, 0.3, 1.0]),
        twice=st.sampled_from([0.0, 0.4]),
        mixed=st.booleans(),
    )
    def updates_come(self, loss: float, twice: float, mixed: bool) -> None:
        self.listener.bring(loss=loss, twice=twice, mixed=mixed)

    @rule(count=st.sampled_from([1, 3, 10, 50]))
    def time_passes(self, count: int) -> None:
        self.do(turns(count))

    @rule()
    def the_hub_polls(self) -> None:
        self.do(self.hub.refresher.poll())

    # Those who watch.

    @precondition(lambda self: len(self.clients) < 4)
    @rule(wire=st.sampled_from(["socket", "page", "sse"]), is_tree=st.booleans())
    def a_client_connects(self, wire: Any, is_tree: bool) -> None:
        run = self.pick(RunRecord.objects.filter(root=self.root.pk))
        start = 0 if is_tree else self.chance.choice([0, 0, run.last_seq // 2, run.last_seq])
        self.clients.append((Client(start), {"run": run, "wire": wire, "is_tree": is_tree}))
        self._connect()

    def _connect(self) -> None:
        there = {id(reader.client) for reader in self.readers}
        for client, how in self.clients:
            if id(client) not in there and not client.is_ended:
                self.readers.append(Reader(client, self.hub, **how))

    @precondition(lambda self: self.readers)
    @rule()
    def a_connection_breaks(self) -> None:
        reader = self.pick(self.readers)
        self.readers.remove(reader)
        self.do(reader.cut(self.chance))

    @rule()
    def they_come_back(self) -> None:
        self._connect()

    # What must be true.

    @rule()
    def all_is_quiet(self) -> None:
        self.writer.flush()
        self.listener.bring(loss=self.chance.choice([0.0, 1.0]))
        self._connect()
        self.do(settle(self.hub, *self.readers))
        for reader in self.readers:
            assert reader.error is None, reader.error
            for run in self.watched(reader):
                with_input = reader.wire != "page"
                reader.client.wait_is_true(str(run), with_input=with_input)
                stored = [event.as_dict() for event in read_events(run, limit=10**6)]
                start = reader.client.start
                assert reader.client.events.get(str(run), []) == stored[start:]
        self.readers = [reader for reader in self.readers if not reader.client.is_ended]

    def watched(self, reader: Reader) -> set[Any]:
        how = next(how for client, how in self.clients if client is reader.client)
        below = {how["run"].pk}
        if how["is_tree"]:
            for record in RunRecord.objects.filter(root=self.root.pk).order_by("depth"):
                if record.parent_id in below:
                    below.add(record.pk)
        return below

    def teardown(self) -> None:
        try:
            self._end_all()
        finally:
            self.do(close_hub())
            self.loop.close()
            notify.remove_listener(self.listener)  # type: ignore[arg-type]
            self.writer.close()
            self._at_once.__exit__(None, None, None)

    def _end_all(self) -> None:
        while RunRecord.objects.filter(root=self.root.pk, status=Status.QUEUED).exists():
            self.writer.begin(is_elsewhere=self.is_elsewhere)
        while self.writer.held:
            self.end(self.pick(self.leaves()))
        self.all_is_quiet()
        assert all(client.is_ended for client, _ in self.clients)
        assert not self.hub.readers
        assert not self.hub.refresher.trees
        assert all(not tail.wakers for tail in self.hub.tails)


class _Deaf:
    """Receives nothing: the test passes on what the hub receives (``LossyListener``)."""

    event = text = activity = changed = lambda *_: None


@pytest.mark.slow
def test_snapshot_and_events_are_a_fresh_snapshot(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    World.owner, World.patch = alice, monkeypatch
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes, and a seed means another story
        ),
    )
