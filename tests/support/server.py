"""The whole program as a separate process, on its own database, with a client."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from .databases import Database, new_database
from .processes import Process, run_manage, start_manage

__all__ = ["Installation", "Server", "eventually", "prepare"]

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_SECONDS = 40  # shared machines are slow; only a failing test waits this long


def eventually(
    condition: Callable[[], Any], what: str = "", within: float = PATIENCE_SECONDS
) -> Any:
    """Wait until ``condition()`` returns something true, and return that."""
    end = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(0.02)
    return answer


_PREPARE = """
from django.contrib.auth.models import User
from django.core.management import call_command
from runs.identity import tokens
call_command("migrate", verbosity=0)
call_command("create_demo_users", verbosity=0)
for name in {names}:
    user, _ = User.objects.get_or_create(username=name)
    print(tokens.create(user)[0])
"""


def prepare(environment: Mapping[str, str], *names: str) -> list[str]:
    """Fill an empty database with tables and users; return the tokens of these users.

    One process does it: each management command of its own would take another second.
    """
    code = _PREPARE.format(names=names)
    done = run_manage(
        *("shell", "--no-imports", "-v0", "-c", code),
        environment=environment,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-len(names) :]


_templates: dict[str, tuple[Database, str]] = {}
"""For each settings module: a new installation's database, to be copied, and its user's token."""


class Installation:
    """A database with a user, and the environment of the processes that use it.

    Its engine is this session's. If there is a Redis, its processes use it.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._count = 0
        self.environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.support.site.settings",
            "DJANGO_DEBUG": "1",
            "LLM_BASE_URL": "",
            "LLM_API_KEY": "",
            "API_THROTTLE_RATE": "0",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        settings = self.environment["DJANGO_SETTINGS_MODULE"]
        if settings not in _templates:
            _templates[settings] = self._make()
        template, self.token = _templates[settings]
        self._use(template.copy(folder / "db.sqlite3"))

    def _make(self) -> tuple[Database, str]:
        self._use(new_database(self.folder / "template.sqlite3"))
        return self.database, prepare(self.environment, "demo")[0]

    def _use(self, database: Database) -> None:
        self.database = database
        self.environment["DATABASE_URL"] = database.url

    def manage(self, *arguments: str) -> str:
        """Run a management command to its end, and return its output."""
        done = run_manage(*arguments, environment=self.environment, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self, port: int = 0, **environment: str) -> Iterator[Server]:
        """Serve until the block ends; a process that still runs is then killed.

        ``port`` is the port of a dead server that this one replaces; 0 is any free port.
        """
        command = ("runserver", f"127.0.0.1:{port}", "--noreload")
        with self._running(*command, **environment) as server:
            yield server

    @contextmanager
    def working(
        self, *arguments: str, descriptors: int | None = None, **environment: str
    ) -> Iterator[Server]:
        """Run a worker process until the block ends; its client reaches only its health endpoints.

        The worker may open ``descriptors`` files, as under ``ulimit -n``.
        """
        with self._running("runworker", *arguments, descriptors=descriptors, **environment) as it:
            yield it

    @contextmanager
    def _running(
        self, *command: str, descriptors: int | None = None, **environment: str
    ) -> Iterator[Server]:
        self._count += 1
        log = self.folder / f"{command[0]}-{self._count}.log"
        with log.open("wb") as out:
            process = start_manage(
                *command,
                environment=self.environment | environment,
                stdout=out,
                descriptors=descriptors,
            )
        client = httpx.Client(headers={"Authorization": f"Token {self.token}"}, timeout=30)
        try:
            yield Server(process, log, client)
        finally:
            client.close()
            if process.poll() is None:
                process.kill()
            process.wait(10)


class Server:
    """A server process, and a client that is signed in as ``demo``."""

    def __init__(self, process: Process, log: Path, client: httpx.Client) -> None:
        self.process = process
        self.client = client
        self._log = log
        self.url = eventually(self._address, "the server prints its address")
        client.base_url = self.url
        eventually(self._is_ready, "the server is ready")

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def start(self, agent: str, **input: Any) -> str:
        """Start a run, and return its id."""
        answer = self.client.post("/runs", json={"agent": agent, "input": input})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def run(self, id: str) -> dict[str, Any]:
        answer = self.client.get(f"/runs/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def until(self, id: str, *statuses: str, within: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Wait until a run is in one of ``statuses``, and return it."""

        def found() -> dict[str, Any] | None:
            run = self.run(id)
            return run if run["status"] in statuses else None

        return dict(eventually(found, f"run {id} is {' or '.join(statuses)}", within))

    def until_it_works(self, id: str) -> None:
        """Wait until a run's agent has started."""
        eventually(lambda: self.run(id)["last_seq"] >= 1, f"run {id} starts")

    def until_it_has_called(self, id: str, tool: str) -> None:
        """Wait until a run's log has a call of this tool."""
        eventually(
            lambda: any(event["data"].get("tool") == tool for event in self.events(id)),
            f"run {id} has called {tool}",
        )

    def events(self, id: str) -> list[dict[str, Any]]:
        return list(self.client.get(f"/runs/{id}/events", params={"limit": 500}).json()["results"])

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.output
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output)
        return found[0] if found else None

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.output
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False
