"""Follow one run from a terminal until it is over, and make a stop of Ctrl-C.

Two ways to run it: in this process, by a worker that takes nothing else, or by the workers that
there are, read from the database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import DatabaseError, connection
from django.utils import timezone

from agents.cancellation import StopMode
from agents.trace import Event, current_trace
from agents.wire import CallInfo, EventOnWire
from runs import events
from runs.actions import starting, stopping
from runs.conf import conf
from runs.delivery import local_runs, notify
from runs.exceptions import RunAlreadyFinished, RunError
from runs.management.console import Console
from runs.models import RunRecord, StopVia, WorkerRecord
from runs.queue.limits import find_obstacle
from runs.status import Status
from runs.wire import for_wire
from runs.wording import phrases
from runs.worker.worker import Worker

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["ERROR", "STOPPED", "SUCCESS", "USAGE", "RunHere", "RunThere", "Watch"]

SUCCESS, ERROR, USAGE, STOPPED = 0, 1, 2, 3  # exit codes
TICK_SECONDS = 0.1
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 2.0  # with a run that no worker takes

Item = Callable[[], None]


class Watch:
    """Shows one run until it is over, and makes a stop of Ctrl-C.

    All happens in the thread that calls ``run``; others, and signals, put what is to be done there
    into a queue.
    """

    def __init__(self, console: Console, agent: str, input: Any, owner: User) -> None:
        self.console = console
        self.agent = agent
        self.input = input
        self.owner = owner
        self.run_id: uuid.UUID | None = None
        self.is_over = False
        # A SimpleQueue, because its put() may interrupt its get(): signals do.
        self.todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.heard: list[EventOnWire] = []  # events not yet shown
        self.exit_code = STOPPED  # for leaving at once
        self._presses = 0
        self._is_asked = False

    def run(self) -> RunRecord:
        """Begin, follow to the end, and return the record as it is then."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what is left."""

    def follow(self) -> RunRecord:
        assert self.run_id is not None
        while not self.is_over:
            self.work_off(TICK_SECONDS)
            self.console.tick()
        self.work_off(0)
        return for_wire(RunRecord.objects.all(), with_input=False).get(pk=self.run_id)

    def work_off(self, timeout: float) -> None:
        """Do what is to be done, waiting for it for at most ``timeout`` seconds."""
        with contextlib.suppress(queue.Empty):
            self.todo.get(timeout=timeout)() if timeout else self.todo.get_nowait()()
            while True:
                self.todo.get_nowait()()
        # Of one run they come in order, but of several together run by run.
        for event in sorted(self.heard, key=lambda event: str(event["ts"])):
            self.console.event(event)
        self.heard.clear()

    # Ctrl-C.

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as they are meant here; in any but the main thread, don't."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers: dict[int, Item] = {
            signal.SIGINT: self.on_ctrl_c,
            signal.SIGTERM: self.on_shutdown,
        }
        # The terminal was closed; but nohup means that this is nothing to care about.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self.on_shutdown

        def note(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT:
                self._presses += 1
                if self._presses >= 3:
                    self.leave_at_once()
            self.todo.put(handlers[number])

        before = {number: signal.signal(number, note) for number in handlers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_ctrl_c(self) -> None:
        if self._is_asked:
            self.on_second_ctrl_c()
        else:
            self.ask_to_stop()

    def on_second_ctrl_c(self) -> None:
        raise NotImplementedError

    def on_shutdown(self) -> None:
        raise NotImplementedError

    def leave_at_once(self) -> NoReturn:
        """End the process now. In a signal handler, so that nothing can hold it up."""
        os._exit(self.exit_code)

    def ask_to_stop(self, mode: StopMode = StopMode.GRACEFUL) -> None:
        """Ask for the stop, in a thread: a database that is slow must not keep the rest waiting."""
        self._is_asked = True
        threading.Thread(target=self._ask, args=(mode,), name="stop", daemon=True).start()

    def _ask(self, mode: StopMode) -> None:
        assert self.run_id is not None
        try:
            result = stopping.request_stop(self.run_id, via=StopVia.CLI, by=self.owner, mode=mode)
        except RunAlreadyFinished:
            return  # the news of it are on their way
        except (RunError, DatabaseError) as error:
            self.todo.put(lambda error=error: self._not_asked(error))  # type: ignore[misc]
        else:
            self.todo.put(lambda: self._asked(result.run))
        finally:
            connection.close()

    def _asked(self, record: RunRecord) -> None:
        if not record.is_terminal:
            at = record.stop_acknowledged_at
            self.console.asked_to_stop(
                {"run": str(record.pk), "agent": record.agent, "depth": record.depth},
                acknowledged_at=at.isoformat() if at else None,
            )

    def _not_asked(self, error: Exception) -> None:
        self._is_asked = False
        self.console.say(f"It could not be asked to stop: {error} Ctrl-C tries again.", "bad")


class RunHere(Watch):
    """Runs the agent in this process, by a worker that takes nothing else."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.worker = Worker(claims=False)
        self._close = contextlib.ExitStack()
        self._shutdowns = 0

    def run(self) -> RunRecord:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.signals())
            stack.enter_context(_logging_to(self))
            self.worker.start_threads()
            stack.callback(self.worker.stop_threads)
            listener = _Listener(self)
            notify.add_listener(listener)
            stack.callback(notify.remove_listener, listener)
            record = self._start()
            over = stack.enter_context(local_runs.watching(record.pk))
            threading.Thread(target=self._wait_for, args=(over,), daemon=True).start()
            self.worker.adopt(record)
            ended = self.follow()
            self._close = stack.pop_all()  # only after the result was printed
        return ended

    def close(self) -> None:
        self._close.close()

    def _start(self) -> RunRecord:
        record, _ = starting.start_run(
            self.agent, self.input, owner=self.owner, worker=self.worker.id
        )
        self.run_id = record.pk
        return record

    def _wait_for(self, over: threading.Event) -> None:
        over.wait()
        self.todo.put(self._over)

    def _over(self) -> None:
        self.is_over = True

    def on_second_ctrl_c(self) -> None:
        if StopMode.ABORT in stopping.AVAILABLE_MODES:
            self.ask_to_stop(StopMode.ABORT)
            return
        self.console.say(
            "The call in flight can't be cut yet, and is still awaited. "
            "Ctrl-C once more leaves at once."
        )

    def leave_at_once(self) -> NoReturn:
        with contextlib.suppress(Exception):
            self.console.say(
                f"Left at once. Other workers end run {self.run_id} when they notice.", "warning"
            )
        super().leave_at_once()

    def on_shutdown(self) -> None:
        """Drain, as a worker does; stops still work meanwhile."""
        self._shutdowns += 1
        if self._shutdowns > 1:
            self.exit_code = STOPPED if self._is_asked else ERROR
            self.leave_at_once()
        seconds = conf().drain_seconds
        left = f"has {phrases.duration(seconds)} left" if seconds else "ends with it"
        self.console.say(f"This process is to end, and the run {left}.", "warning")
        threading.Thread(target=self.worker.drain_threads, name="drain", daemon=True).start()


class RunThere(Watch):
    """Queues the run for the workers, and follows it in the database."""

    def __init__(self, *args: Any, priority: int | None = None) -> None:
        super().__init__(*args)
        self._priority = priority
        self._cursors: dict[uuid.UUID, int] = {}
        self._next_poll = 0.0
        self._is_told = False

    def run(self) -> RunRecord:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.signals())
            stack.enter_context(_logging_to(self))
            record, _ = starting.start_run(
                self.agent, self.input, owner=self.owner, priority=self._priority
            )
            self.run_id = record.pk
            self.console.say(f"Queued as run {record.pk}.", "dim")
            return self.follow()

    def work_off(self, timeout: float) -> None:
        now = time.monotonic()
        if timeout and now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            try:
                self._poll()
            except DatabaseError as error:
                self.console.say(f"The database is silent ({type(error).__name__}).", "warning")
                connection.close()
                self._next_poll = now + 4 * POLL_SECONDS
        super().work_off(timeout)

    def _poll(self) -> None:
        """Show what is new in the tree: the records first, since they only say what is stored."""
        for record in list(RunRecord.objects.filter(root=self.run_id).order_by("created_at")):
            self.heard += self._read(record)
            self.console.activity(str(record.pk), record.in_flight)
            if record.stop_requested and not record.is_terminal:
                self._asked(record)
            if record.pk == self.run_id:
                self.is_over = record.is_terminal
                self._tell_why_it_waits(record)

    def _tell_why_it_waits(self, record: RunRecord) -> None:
        now = timezone.now()
        patience = timedelta(seconds=PATIENCE_SECONDS)
        if self._is_told or record.status != Status.QUEUED or now - record.created_at < patience:
            return
        self._is_told = True
        if not WorkerRecord.objects.filter(lost_at=None, lease_until__gt=now).exists():
            self.console.say(
                "It waits for a worker, and none is there: `manage.py runserver` starts one.",
                "warning",
            )
        elif obstacle := find_obstacle(record):
            why = phrases.queued_text(of=obstacle.of, taken=obstacle.taken, limit=obstacle.limit)
            self.console.say(f"It waits: {why}", "dim")

    def _read(self, record: RunRecord) -> Iterator[EventOnWire]:
        while (after := self._cursors.get(record.pk, 0)) < record.last_seq:
            page = events.read(record.pk, after=after)
            if not page:
                return
            self._cursors[record.pk] = page[-1].seq
            for event in page:
                yield event.as_dict()

    def on_second_ctrl_c(self) -> None:
        self.console.say(f"Run {self.run_id} goes on stopping; it is not followed any longer.")
        self.is_over = True

    def on_shutdown(self) -> None:
        self.console.say(f"Run {self.run_id} goes on; it is not followed any longer.")
        self.is_over = True


class _Listener:
    """Hears the runs of this process; a ``runs.live.Listener``."""

    def __init__(self, watch: Watch) -> None:
        self._todo = watch.todo
        self._heard = watch.heard
        self._console = watch.console

    def event(self, event: Event) -> None:
        self._todo.put(lambda: self._heard.append(event.as_dict()))

    def text(self, run: str, agent: str, call: str, text: str) -> None:
        self._todo.put(lambda: self._console.text(run, call, text))

    def activity(self, run: str, in_flight: list[CallInfo]) -> None:
        self._todo.put(lambda: self._console.activity(run, in_flight))

    def changed(self, run: uuid.UUID, root: uuid.UUID) -> None:
        """The console goes by the log."""


@contextlib.contextmanager
def _logging_to(watch: Watch) -> Iterator[None]:
    """Print the process's own warnings among the lines, in the thread that prints.

    What is logged inside a run is in the run's log, and shown there.
    """
    root = logging.getLogger()
    replaced = [
        handler
        for handler in root.handlers
        if isinstance(handler, logging.StreamHandler)
        and handler.stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    ]
    ours = _ConsoleHandler(watch)
    for handler in replaced:
        root.removeHandler(handler)
    root.addHandler(ours)
    try:
        yield
    finally:
        root.removeHandler(ours)
        for handler in replaced:
            root.addHandler(handler)


class _ConsoleHandler(logging.Handler):
    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        # What blocks the agents' loop is in its run's log.
        if current_trace() is None and record.name != "runs.worker.watchdog":
            line = f"{record.levelname.lower()}: {record.name}: {record.getMessage()}"
            self._watch.todo.put(lambda: self._watch.console.say(line, "warning"))
