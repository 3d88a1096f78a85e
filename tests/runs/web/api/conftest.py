"""Fixtures for the API: users with their clients, agents, and runs in every state."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from rest_framework.test import APIClient

from agents import Tools, agent, registry
from agents.cancellation import StopMode
from agents.runtime import Outcome
from agents.trace import Event
from runs.actions import leases, starting
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.asgi.handler import Handler
from runs.delivery import ends, local_runs
from runs.identity import tokens
from runs.models import RunRecord, WorkerRecord
from runs.web.feed import close_hub


@pytest.fixture(autouse=True)
def agents() -> Iterator[None]:
    with registry.isolated(empty=True):

        @agent("echo", title="Echo", description="Says it again.")
        async def echo(tools: Tools, text: str = "hello", times: int = 1) -> str:
            return text * times

        @agent("strict")
        async def strict(tools: Tools, document: str, words: int = 200) -> str:
            return document

        @agent("anything")
        async def anything(tools: Tools, value: Any = None) -> Any:
            return value

        yield


@pytest.fixture(autouse=True)
def unthrottled(settings: Any) -> None:
    settings.RUNS = {**settings.RUNS, "API_THROTTLE_RATE": None}
    cache.clear()


@pytest.fixture(autouse=True)
def nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have had this process drained."""
    monkeypatch.setattr(ends, "_leaving", threading.Event())


@pytest.fixture
def options(settings: Any) -> Callable[..., None]:
    def change(**changes: Any) -> None:
        settings.RUNS = {**settings.RUNS, **changes}

    return change


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="alice's password")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", password="bob's password")


@pytest.fixture
def viewer(db: None) -> User:
    """Sees everybody's runs, and stops none."""
    return _with_permissions("viewer", "view_runrecord")


@pytest.fixture
def operator(db: None) -> User:
    """Sees and stops everybody's runs."""
    return _with_permissions("operator", "view_runrecord", "stop_runrecord")


@pytest.fixture
def client_of() -> Callable[[User], APIClient]:
    """Give a client with a user's token."""

    def make(user: User) -> APIClient:
        client = APIClient()
        key, token = tokens.create(user)
        tokens.note_use(token, "")  # noted once a minute: not while a test counts queries
        client.credentials(HTTP_AUTHORIZATION=f"Token {key}")
        return client

    return make


@pytest.fixture
def api(client_of: Callable[[User], APIClient], alice: User) -> APIClient:
    """Alice's client."""
    return client_of(alice)


@dataclasses.dataclass
class Runs:
    """Makes runs, and lets them go on as their worker would."""

    owner: User
    worker: WorkerRecord
    held: list[local_runs.ActiveRun] = dataclasses.field(default_factory=list)

    def queued(self, agent: str = "echo", owner: User | None = None, **input: Any) -> RunRecord:
        return starting.start_run(agent, input, owner=owner or self.owner)[0]

    def running(self, agent: str = "echo", owner: User | None = None, **input: Any) -> RunRecord:
        run, _ = starting.start_run(agent, input, owner=owner or self.owner, worker=self.worker.pk)
        self.held.append(self.entry(run))
        return run

    def child_of(self, parent: RunRecord, agent: str = "echo", **input: Any) -> RunRecord:
        run, entry = starting.start_child(self.entry(parent), agent, input)
        self.held.append(entry)
        return run

    def entry(self, run: RunRecord) -> local_runs.ActiveRun:
        entry = local_runs.get(run.pk)
        assert entry is not None
        return entry

    def tell(self, run: RunRecord, count: int, **updates: Any) -> RunRecord:
        """Add ``count`` events to the log."""
        run.refresh_from_db()
        log = [
            Event(
                str(run.pk), seq, datetime.now(UTC), "log", run.agent, run.depth, "agent",
                {"level": "info", "message": f"line {seq}"},
            )
            for seq in range(run.last_seq + 1, run.last_seq + count + 1)
        ]  # fmt: skip
        last_seq = run.last_seq + count
        record_updates([self._news(run, events=log, last_seq=last_seq, **updates)])
        assert self._again(run).last_seq == last_seq
        return run

    def end(
        self, run: RunRecord, kind: Any = "success", told: bool = True, **outcome: Any
    ) -> RunRecord:
        run.refresh_from_db()
        ending = Ending(Outcome(kind, **outcome), StopMode.GRACEFUL if told else None, 0, 0)
        record_updates([self._news(run, ending=ending, last_seq=run.last_seq)])
        local_runs.remove(run.pk)
        return self._again(run)

    def success(self, result: Any = "done", **arguments: Any) -> RunRecord:
        return self.end(self.running(**arguments), result=result)

    def _news(self, run: RunRecord, **updates: Any) -> Updates:
        return Updates(run.pk, self.worker.pk, run.attempt, **updates)

    def _again(self, run: RunRecord) -> RunRecord:
        run.refresh_from_db()
        return run


@pytest.fixture
def runs(alice: User) -> Iterator[Runs]:
    made = Runs(alice, leases.register_worker(100, 60.0))
    try:
        yield made
    finally:
        for entry in made.held:
            local_runs.remove(entry.id)


@pytest.fixture
def address(settings: Any) -> Iterator[str]:
    """Serve the application on a real uvicorn, in a thread, and give its address."""
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    handler = Handler()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await handler(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await close_hub()
        await send({"type": "lifespan.shutdown.complete"})

    config = uvicorn.Config(
        application,
        interface="asgi3",
        port=0,
        lifespan="on",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive(), "the server didn't start"
            assert time.monotonic() < deadline, "the server is still starting"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def _with_permissions(name: str, *codenames: str) -> User:
    user = User.objects.create_user(name, password="pw")
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return user
