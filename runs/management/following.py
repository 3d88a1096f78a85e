"""Start a run from a terminal, follow it to its end, and turn each Ctrl-C into a harder stop.

This process executes the agent (``RunHere``), or a worker does (``RunThere``). In both cases the
feed brings what the terminal shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from django.core.management.base import CommandError
from django.db import DatabaseError
from django.utils import timezone

from agents.cancellation import StopMode
from agents.trace import current_trace
from runs.actions import abandoning, leases, starting, stopping
from runs.actions.limits import Given
from runs.conf import conf
from runs.exceptions import RunAlreadyFinished, RunError
from runs.management.console import Console
from runs.models import RunRecord, StopVia, WorkerRecord
from runs.process.names import process_name
from runs.queue.limits import find_obstacle
from runs.status import Status
from runs.web.feed import Cursor, Follower, RightLost, View, Viewer, close_hub, get_hub
from runs.web.feed.frames import as_socket_message
from runs.wire import RESULTS, for_wire
from runs.wording.run import queued_text
from runs.wording.time import duration
from runs.worker.worker import Worker

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["ERROR", "STOPPED", "SUCCESS", "USAGE", "RunHere", "RunThere"]

SUCCESS, ERROR, USAGE, STOPPED = 0, 1, 2, 3  # exit codes
TICK_SECONDS = 0.1
PATIENCE_SECONDS = 2.0  # with a run that no worker claims

#: What each Ctrl-C asks for, and what is said before: what it does, and what the next one will do.
_CTRL_C = (
    (
        StopMode.GRACEFUL,
        "Stopping it: the calls in flight complete first. Ctrl-C again cuts them.",
    ),
    (
        StopMode.ABORT,
        "Cutting the calls in flight: replies are kept as far as they have come, and paid for. "
        "Ctrl-C again gives up on the run.",
    ),
    (
        StopMode.ABANDON,
        "Giving up on it: the run ends now, whether its code ends or not. A reply that still "
        "comes is lost but paid for. Ctrl-C again leaves at once.",
    ),
)


class _Watch:
    """Shows one run until it is over, and turns each Ctrl-C into a harder stop request."""

    def __init__(
        self,
        console: Console,
        agent: str,
        input: Any,
        owner: User,
        priority: int | None = None,
        limits: Given = MappingProxyType({}),
    ) -> None:
        self.console = console
        self.exit_code = STOPPED  # of a process that leaves at once
        self.is_abandoned = False
        self.start = functools.partial(
            starting.start_run, agent, input, owner=owner, priority=priority, limits=limits
        )
        self._owner = owner
        self._presses = 0
        self._asked = 0  # rungs of the ladder that were asked for
        self._tasks: set[asyncio.Task[None]] = set()  # a loop alone keeps no task alive

    @contextlib.contextmanager
    def running(self) -> Iterator[RunRecord]:
        """Start the run and follow it to its end; yield its record.

        Signals are handled until the end of the context.
        """
        with (
            asyncio.Runner() as runner,
            self._signals(loop := runner.get_loop()),
            _logging_to(lambda *line: loop.call_soon_threadsafe(self.console.say, *line)),
            self.started() as record,
        ):
            self.run_id = record.pk
            runner.run(self._follow())
            record = for_wire(RunRecord.objects.all(), RESULTS).get(pk=self.run_id)
            self.is_abandoned = record.stop_abandoned
            yield record

    def started(self) -> AbstractContextManager[RunRecord]:
        """Start the run; at the end of the context, release what executes it."""
        raise NotImplementedError

    async def wait_for_worker(self) -> None:
        """Say after a while why no worker has claimed the run."""

    def poll(self) -> None:
        """Read what no message brings; called several times a second."""

    def is_left(self, run: dict[str, Any]) -> bool:
        """Tell whether ``run``, as on the wire, is the one that continues without this process."""
        return False

    # Following.

    async def _follow(self) -> None:
        viewer = Viewer(self._owner.pk, run=self.run_id, is_trusted=True)
        view = View(is_page=True)
        self._follower = Follower(get_hub(), viewer, Cursor(), is_tree=True, view=view)
        self._do(self._tick())
        self._do(self.wait_for_worker())
        try:
            async for frames in self._follower.batches():
                for each in frames:
                    frame = json.loads(as_socket_message(each))
                    self.console.take(frame)
                    if frame["type"] == "run" and self.is_left(frame["run"]):
                        self.end()
        except RightLost as lost:
            if lost.why != "gone":
                raise
            raise CommandError(f"Run {self.run_id} was deleted.") from None
        finally:
            await close_hub()
        self.console.flush()

    def end(self) -> None:
        """Follow the run no longer."""

        def end_soon() -> None:
            self._follower.is_over = True
            self._follower.wake()

        # A signal may have come before the follower was there.
        asyncio.get_running_loop().call_soon(end_soon)

    async def _tick(self) -> None:
        while True:
            self.poll()
            self.console.tick()
            await asyncio.sleep(TICK_SECONDS)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Ctrl-C.

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGINT: self._on_ctrl_c,
            signal.SIGTERM: self.on_shutdown,
        }
        # The terminal was closed. Under nohup the process ignores that.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self.on_shutdown

        def note(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT:
                self._presses += 1
                if self._presses > len(_CTRL_C):
                    self.leave_at_once()
            loop.call_soon_threadsafe(handlers[number])

        before = {number: signal.signal(number, note) for number in handlers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_ctrl_c(self) -> None:
        if self._asked < len(_CTRL_C):
            self._do(self._ask_to_stop())

    @property
    def is_asked(self) -> bool:
        """Whether a Ctrl-C has asked the run to stop."""
        return self._asked > 0

    def on_shutdown(self) -> None:
        raise NotImplementedError

    def leave_at_once(self) -> NoReturn:
        """End the process in the signal handler itself, so that nothing can delay it."""
        os._exit(self.exit_code)

    async def _ask_to_stop(self) -> None:
        rung = self._asked
        self._asked += 1
        mode, announcement = _CTRL_C[rung]
        self.console.say(announcement, "warning")
        try:
            await get_hub().read(
                stopping.request_stop, self.run_id, via=StopVia.CLI, by=self._owner, mode=mode
            )
        except (RunAlreadyFinished, RightLost):
            pass  # the end is shown soon, or was shown
        except (RunError, DatabaseError) as error:
            self._asked = min(self._asked, rung)
            self._presses = self._asked
            self.console.say(f"It could not be asked to stop: {error} Ctrl-C tries again.", "bad")


class RunHere(_Watch):
    """Executes the agent in this process, by a worker that claims nothing else."""

    _has_shutdown = False

    @contextlib.contextmanager
    def started(self) -> Iterator[RunRecord]:
        self._worker = Worker(claims=False)
        self._worker.start_threads()
        try:
            record, _ = self.start(worker=self._worker.id)
            self._worker.adopt(record)
            yield record
        finally:
            if self.is_abandoned:
                self._leave_code_behind()
            self._worker.stop_threads()

    def _leave_code_behind(self) -> NoReturn:
        """End the process with the code that does not end: nothing else would end it."""
        with contextlib.suppress(Exception):
            self.console.say("This process ends now, and with it the code of the run.", "warning")
            leases.retire(self._worker.id)
            abandoning.note_left_by_lost(self._worker.id)
        super().leave_at_once()

    def is_left(self, run: dict[str, Any]) -> bool:
        is_ours = run["id"] == str(self.run_id)
        return is_ours and bool(run["worker"] != process_name())  # requeued, or claimed again

    def leave_at_once(self) -> NoReturn:
        with contextlib.suppress(Exception):
            self.console.say(
                f"Left at once. Other workers end run {self.run_id} when they notice.", "warning"
            )
        super().leave_at_once()

    def on_shutdown(self) -> None:
        """Drain, as a worker does. Ctrl-C still stops the run meanwhile."""
        if self._has_shutdown:
            self.exit_code = STOPPED if self.is_asked else ERROR
            self.leave_at_once()
        self._has_shutdown = True
        seconds = conf().drain_seconds
        left = f"soon: the run has {duration(seconds)} left" if seconds else "now, and its run too"
        self.console.say(f"This process ends {left}.", "warning")
        self._do(self._worker.drain())


class RunThere(_Watch):
    """Queues the run for the workers."""

    @contextlib.contextmanager
    def started(self) -> Iterator[RunRecord]:
        record, _ = self.start()
        self.console.say(f"Queued as run {record.pk}.", "dim")
        yield record

    def poll(self) -> None:
        get_hub().refresher.run_is_stale(self.run_id)

    async def wait_for_worker(self) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        with contextlib.suppress(DatabaseError, RightLost):
            if why := await get_hub().read(_why_queued, self.run_id):
                self.console.say(why, "warning")

    def leave_at_once(self) -> NoReturn:
        with contextlib.suppress(Exception):
            self.console.say(f"Run {self.run_id} is not followed any longer.", "warning")
        super().leave_at_once()

    def on_shutdown(self) -> None:
        self.console.say(f"Run {self.run_id} continues; it is not followed any longer.")
        self.end()


def _why_queued(run_id: uuid.UUID) -> str:
    record = RunRecord.objects.get(pk=run_id)
    if record.status != Status.QUEUED:
        return ""
    workers = WorkerRecord.objects.filter(lost_at=None, lease_until__gt=timezone.now())
    if not workers.exists():
        return "It waits for a worker, and none is there: `manage.py runserver` starts one."
    if (limit := find_obstacle(record)) is None:
        return ""
    return f"It waits: {queued_text(of=limit.of, taken=limit.taken, limit=limit.limit)}"


@contextlib.contextmanager
def _logging_to(say: Callable[[str, str], object]) -> Iterator[None]:
    """Print warnings of the process among the lines, instead of its log."""
    root = logging.getLogger()
    before = root.handlers
    others = [handler for handler in before if type(handler) is not logging.StreamHandler]
    root.handlers = [*others, _ConsoleHandler(say)]
    try:
        yield
    finally:
        root.handlers = before


class _ConsoleHandler(logging.Handler):
    def __init__(self, say: Callable[[str, str], object]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        # What is logged inside a run, or blocks the agents' loop, is in the log of the run.
        if current_trace() is None and record.name != "runs.worker.watchdog":
            self._say(
                f"{record.levelname.lower()}: {record.name}: {record.getMessage()}", "warning"
            )
