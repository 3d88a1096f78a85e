"""Wait for the end of a run, and follow its events, from the site's own code.

Async code uses the feed's hub, as requests do. A thread polls: it may be in a process that has no
event loop, such as the worker of a task queue.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from asgiref.sync import sync_to_async
from django.db.transaction import TransactionManagementError

from agents.wire import EventOnWire
from runs import events
from runs.db.alias import connection
from runs.db.lending import release_connection
from runs.delivery import ends, local_runs
from runs.exceptions import RunNotOver
from runs.models import RunRecord
from runs.web.feed import Cursor, Follower, RightLost, View, Viewer, get_hub

from .calls import Run, aget, get, id_of

__all__ = ["Stream", "stream", "until_over", "wait"]

EVENT_COUNT = 100  # read at a time in a thread


def wait(run: Run, timeout: float | None = None) -> RunRecord:
    """Block until a run is over, for at most ``timeout`` seconds; return its record.

    It holds no database connection while it waits. An end in another process is noticed within a
    second.

    Raises:
        runs.exceptions.RunNotOver: it is not over by then, or this process shuts down; a
            TimeoutError.
        RunRecord.DoesNotExist: there is no such run, or not any longer.
        TransactionManagementError: the run is not over, and this would keep a transaction open.
    """
    id = id_of(run)
    if not _is_over(id) and not ends.wait_until_over(id, timeout):
        raise _not_over(id)
    return get(id)


async def until_over(run: Run, timeout: float | None = None) -> RunRecord:
    """Do as ``wait`` does, without a thread: any number of tasks may wait.

    Where messages reach the process, an end in another process is noticed at once.
    """
    id = id_of(run)
    if not await sync_to_async(_is_over)(id):
        try:
            is_over = await get_hub().until_over(_viewer(id), timeout)
        except RightLost:
            is_over = False  # this process shuts down
        if not is_over:
            raise _not_over(id)
    return await aget(id)


def stream(run: Run, *, after: int = 0) -> Stream:
    """Follow the events of a run from the one after ``after`` on, to its end.

    ``async for event in stream(run)`` is live, and any number of tasks may follow. ``for event in
    stream(run)`` blocks its thread, and polls.
    """
    return Stream(id_of(run), after)


class Stream:
    """The events of a run, each once and in order: a dict as ``GET /runs/<id>/events`` has it.

    Iterating ends after the run's last event. Another iteration continues after ``cursor``.

    Raises (while iterating):
        runs.exceptions.RunNotOver: this process shuts down; another one may continue.
        RunRecord.DoesNotExist: there is no such run, or not any longer.
        TransactionManagementError: only in a thread, as for ``wait``.

    Attributes:
        cursor: the ``seq`` of the last event so far.
    """

    def __init__(self, run: uuid.UUID, after: int) -> None:
        self.run = run
        self.cursor = after

    async def __aiter__(self) -> AsyncGenerator[EventOnWire, None]:
        while True:
            try:
                async with aclosing(self._follower().batches()) as batches:
                    async for frames in batches:
                        for frame in frames:
                            if frame.type == "trace":
                                event: EventOnWire = json.loads(frame.data)
                                self.cursor = event["seq"]
                                yield event
                return
            except RightLost as lost:
                if lost.why == "gone":
                    raise RunRecord.DoesNotExist from None
                if lost.why != "unread":  # then others needed the memory: go on from here
                    raise _not_over(self.run) from None

    def __iter__(self) -> Iterator[EventOnWire]:
        pause = ends.FIRST_PAUSE_SECONDS
        while True:
            with local_runs.watching(self.run) as ended:  # before the read: see delivery.ends
                some = events.read(self.run, after=self.cursor, limit=EVENT_COUNT)
                if not some:
                    # After the events: last_seq then counts those that were written in between.
                    record = RunRecord.objects.only("status", "last_seq", "log_removed_at").get(
                        pk=self.run
                    )
                    is_last = self.cursor >= record.last_seq or record.log_removed_at is not None
                    if record.is_terminal and is_last:
                        return
                    if ends.is_leaving():
                        raise _not_over(self.run)
                    _refuse_to_wait_in_a_transaction(self.run)
                    release_connection()
                    ended.wait(pause)
            for event in some:
                self.cursor = event.seq
                yield event.as_dict()
            pause = ends.FIRST_PAUSE_SECONDS if some else ends.next_pause(pause)

    def _follower(self) -> Follower:
        cursor = Cursor.read(str(self.cursor), self.run)
        # As for a page: these frames leave out an input and a result of megabytes.
        return Follower(get_hub(), _viewer(self.run), cursor, view=View(is_page=True))


def _viewer(run: uuid.UUID) -> Viewer:
    return Viewer(None, run=run, is_trusted=True)


def _is_over(run: uuid.UUID) -> bool:
    """Tell whether a run is over or deleted, as the caller's transaction sees it."""
    if not RunRecord.objects.active().filter(pk=run).exists():
        return True
    _refuse_to_wait_in_a_transaction(run)
    release_connection()
    return False


def _refuse_to_wait_in_a_transaction(run: uuid.UUID) -> None:
    if connection.in_atomic_block:
        raise TransactionManagementError(
            f"Run {run} is not over, and this code waits for it in a transaction: a run that was "
            "started in it starts with its commit, and others wait for its locks."
        )


def _not_over(run: uuid.UUID) -> RunNotOver:
    return RunNotOver(f"Run {run} is not over.")
