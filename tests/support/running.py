"""Fixtures for tests that run real agents: a worker, users, a journal, a model's endpoint.

The ``conftest.py`` of tests/runs and of tests/walks import them by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection

from agents import registry
from runs.actions import starting, stopping
from runs.delivery import local_runs, worker_choice
from runs.models import RunRecord
from runs.worker.worker import Worker

from .journal import WAIT_SECONDS, Journal, journal
from .llm_server import LLMServer

__all__ = [
    "alice",
    "bob",
    "hire",
    "isolated_agents",
    "llm_server",
    "log",
    "on_both_databases",
    "operator",
    "options",
    "start",
    "stop",
    "unknown_workers",
    "worker",
]

Start = Callable[..., RunRecord]


@pytest.fixture(autouse=True)
def isolated_agents() -> Iterator[None]:
    """Restore the registry of agents after each test."""
    with registry.isolated():
        yield


@pytest.fixture(autouse=True)
def unknown_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know no workers of another test's database, which runs would be offered to for a second."""
    monkeypatch.setattr(worker_choice, "choice", worker_choice.WorkerChoice())


@pytest.fixture(params=["here", pytest.param("postgres", marks=pytest.mark.postgres)])
def on_both_databases(request: pytest.FixtureRequest) -> str:
    """Run the test in both sessions of ``python -m tests``: it covers both databases."""
    return str(request.param)


@pytest.fixture
def alice(transactional_db: None) -> User:
    return User.objects.create_user("alice", password="pw")


@pytest.fixture
def bob(transactional_db: None) -> User:
    return User.objects.create_user("bob", password="pw")


@pytest.fixture
def operator(transactional_db: None) -> User:
    """A user who sees and stops the runs of all users."""
    user = User.objects.create_user("operator", password="pw")
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["view_runrecord", "stop_runrecord"])
    )
    return user


@pytest.fixture
def options(settings: Any) -> Callable[..., None]:
    """Override settings.RUNS: ``options(LEASE_SECONDS=1)``. Call it before the worker starts."""
    settings.RUNS = {
        **settings.RUNS,
        "DRAIN_SECONDS": 0,
        "LLM": {"BASE_URL": "", "API_KEY": "", "MODEL": ""},
    }

    def change(**changes: Any) -> None:
        settings.RUNS = {**settings.RUNS, **changes}

    return change


@pytest.fixture
def log() -> Iterator[Journal]:
    """Keeps what is committed, from before the first run until after the last."""
    with journal() as listener:
        yield listener


@pytest.fixture
def hire(transactional_db: None, options: Any, log: Journal) -> Iterator[Callable[..., Worker]]:
    """Start any number of workers in this process; they are stopped at the end."""
    workers: list[Worker] = []

    def start(**arguments: Any) -> Worker:
        worker = Worker(**arguments)
        worker.start_threads()
        workers.append(worker)
        return worker

    try:
        yield start
    finally:
        with ThreadPoolExecutor(
            8
        ) as pool:  # a drain can take seconds, so all drain at the same time
            list(pool.map(Worker.stop_threads, workers))
        left, local_runs._runs = dict(local_runs._runs), {}
        assert not left, "runs are still in this process"
        names = {thread.name for thread in threading.enumerate()}
        assert "runs-recorder" not in names, "a recorder is still in this process"


@pytest.fixture
def worker(hire: Callable[..., Worker]) -> Worker:
    return hire()


@pytest.fixture
def llm_server(options: Callable[..., None]) -> Iterator[LLMServer]:
    """The model's endpoint of the test's workers."""
    with LLMServer() as server:
        options(LLM={"BASE_URL": server.base_url, "API_KEY": "a-key-for-tests", "MODEL": "small"})
        yield server


@pytest.fixture
def start(alice: User) -> Start:
    """Start a run of Alice's: ``start("agent", n=3)``."""

    def start_run(agent: str, *, owner: User = alice, **input: Any) -> RunRecord:
        return starting.start_run(agent, input, owner=owner)[0]

    return start_run


@pytest.fixture
def stop(alice: User) -> Callable[..., stopping.StopResult]:
    """Request a stop of a run of Alice's."""

    def request_stop(run: RunRecord, **arguments: Any) -> stopping.StopResult:
        given = {"via": "api", "by": alice, "reason": "enough", **arguments}
        return stopping.request_stop(run.pk, **given)

    return request_stop


class Gate:
    """A gate at which agents wait until the test opens it."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._count = 0
        self._is_open = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def wait(self) -> None:
        """Called by an agent: arrive, and wait until the gate is open."""
        opened = asyncio.Event()
        with self._arrived:
            self._waiting.append((asyncio.get_running_loop(), opened))
        self.arrive()
        if not self._is_open.is_set():
            await opened.wait()

    def wait_here(self) -> None:
        """As ``wait``, in a thread."""
        self.arrive()
        assert self._is_open.wait(WAIT_SECONDS), "the gate was not opened"

    def arrive(self) -> None:
        """Be counted, without waiting."""
        with self._arrived:
            self._count += 1
            self._arrived.notify_all()

    def until_arrived(self, count: int = 1) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._count >= count, WAIT_SECONDS), (
                f"{self._count} of {count} have arrived"
            )

    def close(self) -> None:
        """Close the gate again for the agents that come next."""
        with self._arrived:
            self._count = 0
            self._waiting.clear()
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()
        with self._arrived:
            for loop, opened in self._waiting:
                loop.call_soon_threadsafe(opened.set)


@contextlib.contextmanager
def in_thread(work: Callable[..., Any], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """Do ``work`` in a thread during the body; yields a function that waits for its result."""

    def closing() -> Any:
        try:
            return work(*arguments)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(closing)
        yield lambda: future.result(15)
        future.result(15)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Call all functions at the same moment, each in a thread; return results and exceptions."""
    gate = threading.Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        try:
            gate.wait(15)
            return work()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(one, works))
