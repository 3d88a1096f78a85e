"""Worker processes: a memory, a host, and a worker whose threads are not started."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import coroutine
from typing import Any, TypeVar

from runs.actions import abandoning
from runs.db.threads import _call
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery
from runs.models import RunRecord, WorkerRecord
from runs.worker.recorder import Recorder
from runs.worker.retention import Retention
from runs.worker.started_runs import StartedRuns
from runs.worker.worker import Worker

from .agents import Attempt
from .clock import Host
from .faults import observing
from .seen import SEEN

__all__ = ["LEASE_SECONDS", "Process", "SimulatedExecutor"]

T = TypeVar("T")
LEASE_SECONDS = 15.0
_MEMORY = ("_runs", "_workers", "_wakers", "_waiting")
_NO_PID = {"pid": 2**22 + 1, "pid_started": 1}


class Process(Host):
    """A worker process. ``state`` is up, frozen or dead.

    Attributes:
        keeps_time: its lease ends for itself before others may take over. Not so if a test
            extended the lease by force.
        asked: runs that its agents have requested to stop.
    """

    def __init__(
        self,
        chance: random.Random,
        loop: asyncio.AbstractEventLoop,
        name: str = "here",
        skew_seconds: float = 0.0,
        capacity: int = 100,
    ) -> None:
        super().__init__(name, skew_seconds)
        self.chance = chance
        self.loop = loop
        self.state = "up"
        self.keeps_time = True
        self.is_winding_down = False  # its agents start nothing more
        self.attempts: list[Attempt] = []  # attempts that are in progress
        self.history: list[Attempt] = []  # started since the last check
        self.asked: set[uuid.UUID] = set()
        self.left: list[ActiveRun] = []  # abandoned runs whose code has ended, to be noted
        self.inbox: list[list[StopDelivery]] = []  # received messages
        self.ids: set[uuid.UUID] = set()  # of all workers that it has registered as
        self.memory: dict[str, Any] = {
            "_runs": {},
            "_workers": {},
            "_wakers": [],
            "_waiting": {},
        }
        self.database = _Database()
        self.started = StartedRuns(_Loop(loop), self.database, self._adopt)  # type: ignore[arg-type]
        self.started._polling = loop.create_future()  # type: ignore[assignment]  # see poll_started
        self.retention = Retention()
        self.worker = Worker()
        self.recorder = self.worker.recorder
        executor: Any = self.worker.executor
        executor.process = self
        self.recorder.close = self._close_recorder  # type: ignore[method-assign]
        stand_in: Any = _Capacity(capacity)
        self.worker.heartbeat._capacity = self.worker.claim_loop.capacity = stand_in
        with self.current():
            self.worker.heartbeat.register()

    def __repr__(self) -> str:
        return f"<{self.state} on {self.name}, {sorted(map(str, self.ids))}, {self.attempts}>"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Run the code of the block in this process."""
        before = {name: getattr(local_runs, name) for name in _MEMORY}
        for name, value in self.memory.items():
            setattr(local_runs, name, value)
        try:
            with super().current():
                yield
        finally:
            for name, value in before.items():
                setattr(local_runs, name, value)
            if self.worker.heartbeat._record is not None:
                self.ids.add(self.worker.id)

    def die(self) -> None:
        self.state = "dead"
        for attempt in self.attempts:
            attempt.drop()
        with observing():
            WorkerRecord.objects.filter(pk__in=self.ids).update(**_NO_PID)

    # What its threads do.

    def step_some_agent(self) -> None:
        able = [attempt for attempt in self.attempts if attempt.may_step]
        if able:
            self.chance.choice(able).step(self.chance)

    def flush(self) -> None:
        """Do what the recorder's thread does when it is time."""
        if self.recorder._changed:
            self.recorder._due = 0.0
            books = self.recorder._next()
            assert books is not None
            self.recorder._write(books)

    def receive(self) -> None:
        if self.inbox:
            self.worker.receive_stops(self.inbox.pop(0))
        while not self.worker._stops.empty():
            local_runs.trip(self.worker._stops.get() or ())

    def claim(self) -> None:
        while self.worker.claim_loop.claim_some():
            pass

    def beat(self) -> None:
        """One round of the heartbeat."""
        self.worker.heartbeat.beat()
        while self.left:
            run = self.left[-1]
            abandoning.note_left(run.id, run.worker, run.attempt)
            self.left.pop()

    def poll_started(self) -> None:
        """What ``StartedRuns._poll_while_awaited`` does twice a second."""
        awaited = list(self.started._awaited.values())
        if awaited:
            _run(self.started._poll(awaited))

    def _adopt(self, record: RunRecord, entry: ActiveRun) -> Any:
        SEEN["adopted"] += 1
        return Attempt(self, record, entry)

    def _close_recorder(self, timeout: float = 10.0) -> bool:
        self.flush()
        return True


class SimulatedExecutor:
    """Replaces the executor of a worker whose threads are not started."""

    process: Process
    is_prompt = True  # no agent blocks a loop here
    is_blocked_by_abandoned = False

    def __init__(self, recorder: Recorder, on_idle: Callable[[], None]) -> None:
        self.recorder = recorder

    @property
    def root_count(self) -> int:
        return sum(attempt.takes_slot for attempt in self.process.attempts)

    @property
    def taken_count(self) -> int:
        return sum(one.takes_slot or one.is_abandoned for one in self.process.attempts)

    @property
    def abandoned_count(self) -> int:
        return sum(one.is_abandoned for one in self.process.attempts)

    def submit(self, record: RunRecord, entry: ActiveRun, on_end: Any = None) -> None:
        Attempt(self.process, record, entry)

    def wait_until_empty(self, timeout: float) -> bool:
        """Let agents continue for a little."""
        for _ in range(self.process.chance.randrange(8)):
            self.process.step_some_agent()
            self.process.poll_started()
            self.process.flush()
        return all(attempt.is_abandoned for attempt in self.process.attempts)

    def cancel_all(self) -> None:
        """Cancel the tasks: calls are cut, and code that waits for one gets the cancellation."""
        for attempt in list(self.process.attempts):
            attempt.guard.host_cancelled = True

    def close(self, timeout: float = 5.0) -> None:
        pass


class _Database:
    """Replaces the threads: a caller continues when the test says so, not at once."""

    async def run(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        await _pause()
        return _call(partial(work, *arguments, **options))


@coroutine
def _pause() -> Iterator[None]:
    yield


def _run(work: Any) -> None:
    """Run a coroutine to its end."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


class _Loop:
    """What ``StartedRuns`` needs of the agents' loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    def call_soon_threadsafe(self, function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)


class _Capacity:
    """A fixed number of runs; the limits of the machine don't count here."""

    limited_by = ""

    def __init__(self, total: int) -> None:
        self.total = total

    def left(self, root_count: int) -> int:
        return max(0, self.total - root_count)
