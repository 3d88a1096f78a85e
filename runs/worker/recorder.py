"""The thread that writes the updates of one worker's runs, many runs at a time.

Traces pass their events from any thread and never wait. The recorder collects them for at most 50
ms (or 500 events), then writes all in one transaction. Endings are written immediately. A stop
waits 2 ms: most agents end right after it, and both then fit in one transaction.

While the database is away the recorder keeps its updates and tries again. Nothing is written twice:
a batch is one transaction, and events that an earlier try committed are skipped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import reset_queries

from agents.cancellation import StopMode
from agents.runtime import Outcome
from agents.trace import Event, Trace
from runs.actions.finishing import USAGE, Ended, Ending
from runs.actions.progress import Recorded, Updates, record_updates
from runs.actions.refusals import Care
from runs.db import connecting, writability
from runs.db.alias import connection
from runs.db.transactions import breaks_connection, is_away
from runs.delivery import notify
from runs.delivery.local_runs import ActiveRun
from runs.process import metrics

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS = 0.05
STOP_SECONDS = 0.002
MAX_COUNT = 500
MAX_RUNS = 200  # runs in one transaction
RETRY_SECONDS = (0.05, 0.1, connecting.RETRY_SECONDS)
MOST_TRIES_AT_THE_END = 20
#: A batch that has broken so many connections in a row is refused, if the database answers: a value
#: of a gigabyte breaks the connection.
MOST_TRIES = 10

OnEnd = Callable[["Ended | None"], None]


@dataclass(slots=True)
class _Book:
    """The recorder's state of one run."""

    entry: ActiveRun
    trace: Trace
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    on_end: OnEnd | None = None
    stop_recorded: StopMode | None = None  # the hardest of its log's stop_requested events
    left_out: set[str] = field(default_factory=set)  # usage that the database refuses


class Recorder:
    """Writes the updates of one worker's runs. A ``TraceSink``.

    Args:
        on_lost: called with a run that is not this worker's any more.
    """

    def __init__(self, on_lost: Callable[[ActiveRun], None]) -> None:
        self._on_lost = on_lost
        self._books: dict[str, _Book] = {}
        self._changed: dict[str, _Book] = {}  # in the order of their oldest change
        self._count = 0
        self._due = 0.0  # when to write what has changed
        self._closing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._main, name="runs-recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 10.0) -> bool:
        """Write what is left and end; return whether that took less than ``timeout`` seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def open(self, entry: ActiveRun, trace: Trace) -> None:
        """Add a run, before its first event.

        Of two attempts in this worker the later one is recorded. An attempt whose claim was lost
        may still unwind, or even start, after this worker has claimed the run again.
        """
        with self._condition:
            before = self._books.get(trace.run)
        if before is not None and before.entry.attempt > entry.attempt:
            trace.close()
            self._on_lost(entry)
            return
        if before is not None:
            before.trace.close()  # it has a lock of its own: not under ours
        with self._condition:
            if before is not None:
                self._changed.pop(trace.run, None)
            self._books[trace.run] = _Book(entry, trace)
        if before is not None:
            self._on_lost(before.entry)
            self._pass_on_end(before, None)

    def end(self, trace: Trace, outcome: Outcome, on_end: OnEnd) -> None:
        """Write a run's ending with the rest of its log, and close its trace.

        ``on_end`` is called in the recorder's thread after the commit, with the ending as it was
        written, or with None if the claim was lost.
        """
        trace.close()
        with self._condition:
            book = self._book_of(trace)
            if book is not None:
                book.outcome, book.on_end = outcome, on_end
                self._note(book, within=0.0)
                return
        on_end(None)  # a later attempt has replaced this one

    # A TraceSink:

    def event(self, event: Event) -> None:
        with self._condition:
            book = self._books.get(event.run)
            if book is None:
                return
            book.events.append(event)
            self._count += 1
            is_stop = event.type == "stop_requested"
            if is_stop:
                book.stop_recorded = StopMode(event.data["mode"])
            within = STOP_SECONDS if is_stop else MAX_AGE_SECONDS
            self._note(book, within=0.0 if self._count >= MAX_COUNT else within)

    def activity(self, trace: Trace) -> None:
        with self._condition:
            book = self._book_of(trace)
            # A token may still trip while the ending is written, which must be written once.
            if book is not None and book.outcome is None:
                self._note(book, within=MAX_AGE_SECONDS)
        if book is not None:  # otherwise another attempt publishes for this run
            notify.publish_activity(trace)

    def text(self, trace: Trace, call: str, text: str) -> None:
        if self._book_of(trace) is not None:
            notify.publish_text(trace.run, trace.agent, call, text)

    def _book_of(self, trace: Trace) -> _Book | None:
        book = self._books.get(trace.run)
        return book if book is not None and book.trace is trace else None

    def _note(self, book: _Book, *, within: float) -> None:
        due = time.monotonic() + within
        if not self._changed or due < self._due:
            self._due = due
            self._condition.notify()
        self._changed.setdefault(book.trace.run, book)

    def _main(self) -> None:
        try:
            while (books := self._next()) is not None:
                for start in range(0, len(books), MAX_RUNS):
                    self._write(books[start : start + MAX_RUNS])
        finally:
            connection.close()

    def _next(self) -> list[_Book] | None:
        """Wait for runs to write, and return them; None at the end."""
        with self._condition:
            while True:
                if not self._changed:
                    if self._closing:
                        return None
                    self._condition.wait()
                    continue
                left = self._due - time.monotonic()
                if self._closing or left <= 0:
                    break
                self._condition.wait(left)
            books = list(self._changed.values())
            self._changed.clear()
            self._count = 0
            return books

    def _write(self, books: list[_Book]) -> None:
        batch = [self._updates(book) for book in books]
        with metrics.RECORDER_SECONDS.time():
            recorded = self._record(batch)
        metrics.RECORDER_EVENTS.observe(sum(len(updates.events) for updates in batch))
        reset_queries()
        try:
            _publish(recorded, books)
        except Exception:  # of any kind: the updates are committed, and the endings are still due
            logger.exception("updates of %d runs can't be passed on", len(books))
        gone = recorded.gone
        for book in books:
            # Usage only grows, and would be refused each time.
            book.left_out |= recorded.refused.get(book.entry.id, set()) & USAGE
        for book, updates in zip(books, batch, strict=True):
            if updates.run in recorded.full:
                book.trace.cut("quota_stored")
            if updates.run not in gone:
                continue
            book.trace.close()  # first: its events would go into the next book of this run
            with self._condition:
                if self._books.get(book.trace.run) is book:
                    del self._books[book.trace.run]
            ended = gone[updates.run]
            if ended is not None and ended.is_abandoned:
                book.entry.token.request(StopMode.ABANDON, "the run was abandoned")
            if updates.ending is not None:
                self._pass_on_end(book, ended)
            else:
                self._on_lost(book.entry)

    def _pass_on_end(self, book: _Book, ended: Ended | None) -> None:
        """Call a run's ``on_end``, once; it has none before ``end``."""
        with self._condition:
            on_end, book.on_end = book.on_end, None
        if on_end is not None:
            try:
                on_end(ended)
            except Exception:
                run = book.trace.run
                logger.exception("the end of run %s can't be passed on", run, extra={"run": run})

    def _updates(self, book: _Book) -> Updates:
        """Take the updates of a run since the last write."""
        entry, trace = book.entry, book.trace
        with trace.paused(), self._condition:
            events, book.events = book.events, []
            outcome, usage = book.outcome, trace.usage
            # Nothing comes after an ending, and this batch has all that was noted meanwhile.
            if outcome is not None and self._changed.get(trace.run) is book:
                del self._changed[trace.run]
        token, guard = entry.token, entry.guard
        updates = Updates(
            entry.id,
            entry.worker,
            entry.attempt,
            events,
            last_seq=events[-1].seq if events else 0,
            in_flight=trace.in_flight() if outcome is None else [],
            usage=usage,
            acknowledged_at=token.acknowledged_at,
            observed_at=token.observed_at,
            left_out=book.left_out,
        )
        if guard is not None:
            updates.unwatched_threads = guard.unwatched_threads
            updates.unwatched_processes = guard.unwatched_processes
            updates.unwatched_connections = guard.unwatched_connections
        if outcome is not None:
            late = guard.calls_started_after_acknowledgement if guard is not None else 0
            updates.ending = Ending(
                outcome,
                book.stop_recorded,
                late,
                trace.dropped_count,
                is_fenced=token.lease.is_over,
                has_begun=guard is None or guard.has_begun,
                calls_cut=guard.calls_cut if guard is not None else 0,
            )
        return updates

    def _record(self, batch: list[Updates], care: Care = Care.WHOLE) -> Recorded:
        """Write a batch; repeat it while the database is away.

        If it is refused, divide it, and write the run that was refused with more care.
        """
        tries = 0
        while True:
            try:
                return record_updates(batch, care)
            except Exception as error:
                writability.note_failure(error)
                connection.close()  # it may be broken; the next query opens another
                if is_away(error) and not (tries >= MOST_TRIES and _breaks_it(error)):
                    pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
                    tries += 1
                    why = type(error).__name__
                    logger.warning("the log can't be written (%s), trying again", why)
                    time.sleep(pause)
                    if self._closing and tries > MOST_TRIES_AT_THE_END:
                        return Recorded()
                    continue
                if len(batch) > 1:  # find the run that can't be written
                    half = len(batch) // 2
                    recorded = self._record(batch[:half])
                    recorded.add(self._record(batch[half:]))
                    return recorded
                run = batch[0].run
                if care is Care.BARE:
                    logger.exception("run %s can't be written at all", run, extra={"run": run})
                    return Recorded(gone={run: None})
                logger.exception("updates of run %s can't be written", run, extra={"run": run})
                return self._record(batch, Care(care + 1))


def _publish(recorded: Recorded, books: list[_Book]) -> None:
    notify.publish_events(recorded.log)
    notify.publish_changes(recorded.changed)
    for worker, runs in recorded.callers.items():
        notify.send_ended(worker, runs)
    notify.publish_progress(book.trace.run for book in books)


def _breaks_it(error: BaseException) -> bool:
    """Tell whether a batch broke the connection to a database that executes other statements."""
    if not breaks_connection(error):
        return False
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:
        connection.close()
        return False
    return True
