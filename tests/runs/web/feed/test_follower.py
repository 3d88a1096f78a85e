"""One reader: each event once and in order, states as they are, and nothing kept for the slow."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from runs.delivery import notify
from runs.events import read as read_events
from runs.ops.retention import Policy, Sweep
from runs.web.feed import Hub, RightLost, follower, reading, refresh
from tests.support.feeds import (
    Client,
    Reader,
    Wire,
    Writer,
    finished,
    not_in_a_loop,
    settle,
    turns,
    watch,
)


class TestOneRun:
    @pytest.mark.parametrize("wire", ["socket", "page", "sse"])
    async def test_comes_from_its_first_frame_to_its_end(
        self, writer: Writer, hub: Hub, wire: Wire
    ) -> None:
        run = writer.queue()
        reader = watch(hub, run, wire)
        await settle(hub, reader)
        assert reader.client.types == ["run"]
        writer.begin()
        writer.log(run.pk, 3)
        writer.flush()
        await settle(hub, reader)
        assert reader.client.runs[str(run.pk)]["status"] == "running"
        writer.end(run.pk, result="done")
        await settle(hub, reader)
        client = reader.client
        assert client.is_ended
        assert client.seqs == {str(run.pk): 5}
        client.wait_is_true(str(run.pk), with_input=wire != "page")
        assert client.events[str(run.pk)] == [e.as_dict() for e in read_events(run.pk)]

    async def test_that_is_over_comes_from_any_position(self, writer: Writer, hub: Hub) -> None:
        run = finished(writer, 1_200)
        for after in (0, 1, 250, 499, 500, 501, 1_000, 1_201):
            reader = watch(hub, run, start=after)
            await settle(hub, reader)
            assert reader.client.is_ended
            seqs = [event["seq"] for event in reader.client.events[str(run.pk)]]
            assert seqs == list(range(after + 1, 1_203))
            assert (reader.client.types[0], reader.client.types[-1]) == ("run", "end")
        for after in (1_202, 1_203, 2**31 - 1):
            reader = watch(hub, run, start=after)
            await settle(hub, reader)
            assert reader.client.types == ["run", "end"]

    async def test_replay_goes_over_into_what_comes(self, writer: Writer, hub: Hub) -> None:
        run = writer.queue()
        writer.begin()
        writer.log(run.pk, 700)
        writer.flush()
        reader = watch(hub, run, start=600)
        for _ in range(20):
            writer.log(run.pk, 7)
            writer.flush()
            await turns(3)
        await settle(hub, reader)
        assert reader.client.seqs[str(run.pk)] == 841

    async def test_beyond_its_end_begins_there_when_it_is_reached(
        self, writer: Writer, hub: Hub
    ) -> None:
        run = writer.queue()
        writer.begin()
        reader = watch(hub, run, start=10)
        writer.flush()
        await settle(hub, reader)
        assert reader.client.types == ["run"]
        writer.log(run.pk, 11)
        writer.flush()
        await settle(hub, reader)
        assert reader.client.events[str(run.pk)][0]["seq"] == 11

    async def test_without_messages_is_found_by_polling(self, writer: Writer, hub: Hub) -> None:
        run = writer.queue()
        reader = watch(hub, run)
        await settle(hub, reader)
        writer.begin(is_elsewhere=True)
        writer.log(run.pk, 1_500)
        writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        reader.client.wait_is_true(str(run.pk), with_input=True)
        assert reader.client.seqs[str(run.pk)] == 1_501
        writer.end(run.pk)
        await settle(hub, reader)
        assert reader.client.is_ended

    async def test_shows_each_step_of_a_stop(self, writer: Writer, hub: Hub, alice: User) -> None:
        run = writer.queue()
        writer.begin()
        writer.begin_call(run.pk)
        writer.flush()
        reader = watch(hub, run)
        await settle(hub, reader)
        seen: list[Any] = []

        async def note() -> None:
            await settle(hub, reader)
            shown = reader.client.runs[str(run.pk)]
            stop = shown["stop"] or {}
            seen.append(
                (shown["status"], bool(stop.get("acknowledged_at")), bool(stop.get("observed_at")))
            )

        await note()
        writer.request_stop(run.pk)
        await note()
        writer.flush()  # while the call goes on
        await note()
        writer.end_call(run.pk)
        writer.observe(run.pk)
        writer.flush()
        await note()
        writer.end(run.pk, "stopped")
        await note()
        assert seen == [
            ("running", False, False),
            ("stopping", False, False),
            ("stopping", True, False),
            ("stopping", True, True),
            ("stopped", True, True),
        ]
        assert reader.client.is_ended

    async def test_that_was_deleted_is_gone(self, writer: Writer, hub: Hub) -> None:
        run = writer.queue()
        reader = watch(hub, run)
        await settle(hub, reader)
        writer.delete(run.pk)
        await settle(hub, reader)
        assert isinstance(reader.error, RightLost)
        assert reader.error.why == "gone"

    async def test_handed_back_has_nothing_in_flight_any_more(
        self, writer: Writer, hub: Hub
    ) -> None:
        """The end of its last call was not received: it had left this process by then."""
        run = writer.queue()
        writer.begin()
        writer.flush()
        reader = watch(hub, run)
        await settle(hub, reader)
        writer.begin_call(run.pk)
        await turns(20)
        assert reader.client.runs[str(run.pk)]["in_flight"]
        writer.lose(run.pk)
        await settle(hub, reader)
        assert reader.client.runs[str(run.pk)]["status"] == "queued"
        reader.client.wait_is_true(str(run.pk), with_input=True)
        writer.begin()
        writer.flush()
        await settle(hub, reader)
        reader.client.wait_is_true(str(run.pk), with_input=True)
        assert reader.client.runs[str(run.pk)]["attempt"] == 2

    async def test_what_is_in_flight_here_is_found_by_polling_too(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = writer.queue()
        writer.begin()
        writer.flush()
        reader = watch(hub, run)
        await settle(hub, reader)
        monkeypatch.setattr(notify, "_listeners", [])
        writer.begin_call(run.pk)
        writer.flush()
        await settle(hub, reader)
        reader.client.wait_is_true(str(run.pk), with_input=True)


class TestRemovedLog:
    """The record is still there, and says so."""

    @pytest.mark.parametrize("wire", ["socket", "page", "sse"])
    @pytest.mark.parametrize("start", [0, 2, 7, 99])
    async def test_ends_at_once_wherever_one_begins(
        self, writer: Writer, hub: Hub, wire: Wire, start: int
    ) -> None:
        run = finished(writer, 5)
        _remove_log(run)
        reader = watch(hub, run, wire, start=start)
        await settle(hub, reader)
        assert reader.client.types == ["run", "end"]
        shown = reader.client.runs[str(run.pk)]
        assert shown["last_seq"] == 7
        assert shown["log_removed_at"]

    async def test_below_a_run_does_not_keep_its_tree_open(self, writer: Writer, hub: Hub) -> None:
        root = writer.queue()
        writer.begin()
        child = writer.bear(root.pk)
        writer.log(child.pk, 5)
        writer.end(child.pk)
        writer.end(root.pk)
        for run in (root, child):
            run.refresh_from_db()
            _remove_log(run)
        reader = watch(hub, root, is_tree=True)
        await settle(hub, reader)
        assert reader.client.is_ended
        assert reader.client.types.count("run") == 2

    @pytest.mark.parametrize("removed", ["log", "run"])
    async def test_while_it_is_read_ends_the_feed(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch, removed: str
    ) -> None:
        monkeypatch.setattr(follower, "_LOST_TRACK_SECONDS", 0.01)
        run = finished(writer, 1_500)
        reader = watch(hub, run)
        async with asyncio.timeout(10):
            while not reader.client.seqs:
                await asyncio.sleep(0)
            _remove_log(run)
            if removed == "run":
                writer.delete(run.pk)
            await asyncio.gather(reader.task)
        if removed == "run":
            assert isinstance(reader.error, RightLost)
            assert reader.error.why == "gone"
        else:
            assert reader.client.is_ended
            assert reader.client.runs[str(run.pk)]["log_removed_at"]


def _remove_log(run: Any) -> None:
    before = timezone.now() + timedelta(hours=1)
    sweep = Sweep(Policy("logs", before))
    while sweep.step():
        pass
    assert not read_events(run.pk)


class TestTree:
    async def test_children_come_as_they_are_created(self, writer: Writer, hub: Hub) -> None:
        root = writer.queue()
        writer.begin()
        reader = watch(hub, root, is_tree=True)
        await settle(hub, reader)
        child = writer.bear(root.pk)
        writer.log(child.pk, 5)
        grandchild = writer.bear(child.pk)
        writer.flush()
        await settle(hub, reader)
        for run in (root, child, grandchild):
            reader.client.wait_is_true(str(run.pk), with_input=True)
        for run in (grandchild, child, root):
            writer.end(run.pk)
        await settle(hub, reader)
        assert reader.client.is_ended
        for run in (root, child, grandchild):
            reader.client.wait_is_true(str(run.pk), with_input=True)

    async def test_of_a_child_is_what_is_below_it(self, writer: Writer, hub: Hub) -> None:
        root = writer.queue()
        writer.begin()
        one, other = writer.bear(root.pk), writer.bear(root.pk)
        below = writer.bear(one.pk)
        writer.flush()
        reader = watch(hub, one, is_tree=True)
        await settle(hub, reader)
        assert reader.client.runs.keys() == {str(one.pk), str(below.pk)}
        assert str(other.pk) not in reader.client.events

    async def test_the_end_comes_behind_the_last_word_of_every_child(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its status is read while the reader asks for the last time who belongs to the tree."""
        root = writer.queue()
        writer.begin()
        child = writer.bear(root.pk)
        writer.flush()
        reader = watch(hub, root, is_tree=True)
        await settle(hub, reader)
        writer.end(child.pk)
        writer.end(root.pk)
        snapshots = reading.read_snapshots
        late = asyncio.Event()

        async def read(work: Any, *args: Any) -> Any:
            if work is snapshots and args[0] == [child.pk]:
                await late.wait()
            if work is reading.read_trees and reader.client.runs[str(root.pk)]["finished_at"]:
                late.set()
                await turns(20)
            with not_in_a_loop():
                return work(*args)

        monkeypatch.setattr(hub, "read", read)
        monkeypatch.setattr(refresh, "MOST_AT_ONCE", 1)
        hub.refresher.run_is_stale(root.pk)
        hub.refresher.run_is_stale(child.pk)
        await turns(300)
        late.set()
        await settle(hub, reader)
        assert reader.client.is_ended
        reader.client.wait_is_true(str(child.pk), with_input=True)

    async def test_a_deleted_child_does_not_keep_it_open(self, writer: Writer, hub: Hub) -> None:
        root = writer.queue()
        writer.begin()
        child = writer.bear(root.pk)
        writer.flush()
        reader = watch(hub, root, is_tree=True)
        await settle(hub, reader)
        writer.end(child.pk)
        writer.delete(child.pk)
        writer.end(root.pk)
        await settle(hub, reader)
        assert reader.client.is_ended

    async def test_who_leaves_at_once_still_knows_how_far_it_had_read_the_children(
        self, writer: Writer, hub: Hub
    ) -> None:
        """Events of the root come before it is known who belongs to the tree."""
        root = writer.queue()
        writer.begin()
        child = writer.bear(root.pk)
        writer.log(child.pk, 5)
        writer.flush()
        client = Client()
        reader = Reader(client, hub, root, "socket", is_tree=True)
        await settle(hub, reader)
        assert client.seqs[str(child.pk)] == 6
        for moment in range(0, 60, 3):
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)
            reader.read()
            writer.log(root.pk, 1)
            writer.flush()
            reader = Reader(client, hub, root, "socket", is_tree=True)
            await turns(moment)
        await settle(hub, reader)  # the client has looked for gaps and repetitions
        assert client.seqs[str(root.pk)] == 21
        assert client.seqs[str(child.pk)] == 6

    @pytest.mark.parametrize("wire", ["page", "socket"])
    async def test_a_page_s_frames_need_no_cursor_of_their_own(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch, wire: Wire
    ) -> None:
        """One names all runs of the tree; a page gets it once for each batch."""
        root = writer.queue()
        writer.begin()
        children = [writer.bear(root.pk) for _ in range(5)]
        writer.flush()
        reader = watch(hub, root, wire, is_tree=True)
        seen: list[Any] = []
        encode = reader._encode

        def note(batch: Any) -> list[Any]:
            seen.extend(messages := encode(batch))
            return messages

        monkeypatch.setattr(reader, "_encode", note)
        await settle(hub, reader)
        frames = [f for m in seen for f in m.get("frames", [m])]
        traces = [frame for frame in frames if frame["type"] == "trace"]
        assert len(traces) == len(children) + 1
        assert all(("cursor" in frame) is (wire == "socket") for frame in traces)


def test_the_last_bytes_of_ids_differ() -> None:
    """What a tree's cursor relies on."""
    from runs.models import uuid7

    ids: set[uuid.UUID] = {uuid7() for _ in range(10_000)}
    assert len({id.bytes[-6:] for id in ids}) == 10_000
