"""Several processes on one PostgreSQL and one Redis: web processes, workers, and their signals.

Nothing is simulated: each process starts as an operator starts it. Each test has its own database;
the session has its own servers (``services``). To read the database with the ORM of the tests' own
process: ``with cluster.books():``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from django.db import connection

from .databases import drop_database
from .processes import Process, start_manage
from .server import Server, eventually, prepare
from .services import PrivatePostgres, PrivateRedis

__all__ = [
    "Cluster",
    "MakeCluster",
    "Node",
    "Web",
    "Worker",
    "make_cluster",
    "make_module_cluster",
]

#: Port of a PostgreSQL -> its template, and the tokens of demo and other.
_templates: dict[int, tuple[str, list[str]]] = {}


class Node:
    """A process of the cluster."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def own_output(self) -> str:
        """Its output without the agents' failures, which are errors in the log as well."""
        entries = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d )", self.output)
        return "".join(entry for entry in entries if " ERROR runs.agents " not in entry)

    def errors(self) -> list[str]:
        """Return its own errors, except those of libraries about a lost Redis."""
        lines = self.own_output.splitlines()
        lines = [line for line in lines if re.search(" (ERROR|CRITICAL) ", line)]
        return [line for line in lines if " channels_redis." not in line]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def terminate(self) -> None:
        """Send SIGTERM, as a deploy does: the process drains and ends."""
        self.process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it: SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def wait(self, seconds: float = 60) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process does not end:\n{self.output[-4_000:]}") from None


class Web(Node, Server):
    """A process that serves, with an HTTP client."""

    def __init__(self, process: Process, log: Path, token: str) -> None:
        Node.__init__(self, process, log)
        self._log = log
        self.client = httpx.Client(
            headers={"Authorization": f"Token {token}"},
            timeout=30,
            limits=httpx.Limits(max_connections=200),
        )

    def until_ready(self) -> None:
        self.url = eventually(self._address, "the server prints its address")
        self.client.base_url = self.url
        eventually(self._is_ready, "the server is ready")


class Worker(Node):
    """A process that runs agents, and serves no requests."""

    def __init__(self, process: Process, log: Path, cluster: Cluster) -> None:
        super().__init__(process, log)
        self._cluster = cluster

    @property
    def id(self) -> uuid.UUID:
        """The id of its record; of the newest one if it registered more than once."""
        found = self._cluster.execute(
            "SELECT id FROM runs_workerrecord WHERE pid = %s ORDER BY started_at DESC", self.pid
        )
        assert found, "the worker has not registered"
        return uuid.UUID(str(found[0][0]))

    def until_ready(self) -> None:
        def is_registered() -> bool:
            assert self.is_alive, self.output
            rows = "SELECT 1 FROM runs_workerrecord WHERE pid = %s AND lost_at IS NULL"
            return bool(self._cluster.execute(rows, self.pid))

        eventually(is_registered, "the worker has registered")


class Cluster:
    """A database, and the processes that use it.

    ``environment`` applies to all processes. Leases are short, so that tests need not wait long.
    """

    def __init__(
        self,
        postgres: PrivatePostgres,
        redis: PrivateRedis,
        folder: Path,
        unblock: Callable[[], Any],
        **environment: str,
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self.folder = folder
        self.nodes: list[Node] = []
        self._unblock = unblock
        self._count = 0
        self.witness_file = folder / "witness.jsonl"
        self.witness_file.touch()
        self._witnesses: list[dict[str, Any]] = []
        self._witnessed = 0  # bytes of the file
        base = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.support.site.settings",
            "DJANGO_DEBUG": "1",
            "LLM_BASE_URL": "",
            "LLM_API_KEY": "",
            "API_THROTTLE_RATE": "0",
            "PYTHONUNBUFFERED": "1",
        }
        template, (self.token, self.other_token) = _template(postgres, base)
        self.url = postgres.new_database(template)
        self.environment = base | {
            "DATABASE_URL": self.url,
            "REDIS_URL": redis.url,
            "RUNS_LEASE_SECONDS": "3",
            "RUNS_DRAIN_SECONDS": "2",
            "WITNESS_FILE": str(self.witness_file),
            **environment,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.is_alive:
                node.process.kill()
        for node in self.nodes:
            node.process.wait(10)
            if isinstance(node, Web):
                node.client.close()
        # A test that stopped a server may have failed before it started it again.
        self.postgres.start()
        drop_database(self.url)

    def launch(
        self, *, webs: int = 0, workers: int = 0, **environment: str
    ) -> tuple[list[Web], list[Worker]]:
        """Start processes at the same time; return them when all are ready."""
        new_webs = [self._web(environment) for _ in range(webs)]
        new_workers = [self._worker(environment) for _ in range(workers)]
        for node in [*new_webs, *new_workers]:
            node.until_ready()
        return new_webs, new_workers

    def web(self, **environment: str) -> Web:
        """Start one web process."""
        return self.launch(webs=1, **environment)[0][0]

    def worker(self, **environment: str) -> Worker:
        """Start one worker."""
        return self.launch(workers=1, **environment)[1][0]

    def again(self, web: Web, **environment: str) -> Web:
        """Start a web process at the address of one that has ended."""
        node = self._web(environment, web.port)
        node.until_ready()
        return node

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        """Execute SQL without the project's code."""
        with psycopg.connect(self.url, autocommit=True) as database:
            cursor = database.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def books(self) -> Iterator[None]:
        """Point the ORM of the tests' own process at the cluster's database."""
        settings = connection.settings_dict
        before = {name: settings[name] for name in ("NAME", "HOST", "PORT", "USER", "PASSWORD")}
        url = urlsplit(self.url)
        _disconnect()
        settings.update(
            NAME=url.path[1:], HOST=url.hostname, PORT=url.port, USER=url.username, PASSWORD=""
        )
        try:
            with self._unblock():
                yield
        finally:
            _disconnect()
            settings.update(before)

    def statuses(self) -> dict[str, int]:
        """Count the runs by status."""
        return dict(self.execute("SELECT status, count(*) FROM runs_runrecord GROUP BY status"))

    def until_quiet(self, within: float = 60) -> dict[str, int]:
        """Wait until no run is queued or running; return the number of runs by status."""

        def is_quiet() -> bool:
            active = "SELECT count(*) FROM runs_runrecord WHERE status IN ('queued', 'running')"
            return self.execute(active)[0][0] == 0

        self.eventually(is_quiet, "no run is queued or running", within)
        return self.statuses()

    def witnesses(self) -> list[dict[str, Any]]:
        """Return the lines that agents have written to the witness file: {word, run, pid, at}."""
        with self.witness_file.open("rb") as file:
            file.seek(self._witnessed)
            for line in file:
                self._witnessed += len(line)
                self._witnesses.append(json.loads(line))
        return self._witnesses

    def started(self) -> set[str]:
        """Return the runs whose agents have started."""
        return {line["run"] for line in self.witnesses() if line["word"] == "start"}

    def eventually(self, condition: Callable[[], Any], what: str, within: float = 40) -> None:
        """Wait until ``condition()``; if it stays false, show what every process was doing."""
        try:
            eventually(condition, what, within)
        except AssertionError as error:
            sessions = (
                "SELECT pid, state, wait_event, now() - xact_start, left(query, 100)"
                " FROM pg_stat_activity"
                " WHERE datname = current_database() AND xact_start IS NOT NULL"
            )
            rows = "\n".join(map(str, self.execute(sessions)))
            error.add_note(f"{self.statuses()}\n{rows}\n{self.outputs()}")
            raise

    def until_worker(self, condition: str, *parameters: Any) -> None:
        """Wait until there is a worker's record of which ``condition`` is true."""
        rows = f"SELECT 1 FROM runs_workerrecord WHERE {condition}"
        self.eventually(lambda: self.execute(rows, *parameters), f"a worker: {condition}")

    def outputs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"--- {node.log.name}\n{node.output[-1_500:]}" for node in self.nodes)

    def _web(self, environment: dict[str, str], port: int = 0) -> Web:
        arguments = ["runserver", f"127.0.0.1:{port}", "--noreload"]
        process, log = self._start("web", arguments, {"RUNS_EMBEDDED_WORKER": "0"} | environment)
        node = Web(process, log, self.token)
        self.nodes.append(node)
        return node

    def _worker(self, environment: dict[str, str]) -> Worker:
        process, log = self._start("worker", ["runworker"], environment)
        node = Worker(process, log, self)
        self.nodes.append(node)
        return node

    def _start(
        self, kind: str, arguments: Sequence[str], environment: dict[str, str]
    ) -> tuple[Process, Path]:
        self._count += 1
        log = self.folder / f"{kind}-{self._count}.log"
        with log.open("wb") as out:
            process = start_manage(
                *arguments, environment=self.environment | environment, stdout=out
            )
        return process, log


MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(
    private_postgres: PrivatePostgres,
    private_redis: PrivateRedis,
    tmp_path: Path,
    django_db_blocker: Any,
) -> Iterator[MakeCluster]:
    """Make a cluster without processes: ``make_cluster(RUNS_LEASE_SECONDS="5")``."""
    made: list[Cluster] = []

    def make(**environment: str) -> Cluster:
        cluster = Cluster(
            private_postgres, private_redis, tmp_path, django_db_blocker.unblock, **environment
        )
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.__exit__()


@pytest.fixture(scope="module")
def make_module_cluster(
    _postgres_server: PrivatePostgres,
    _redis_server: PrivateRedis,
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: Any,
) -> MakeCluster:
    """Make a cluster that several tests use, and that the caller closes.

    These tests stop no server.
    """

    def make(**environment: str) -> Cluster:
        for server in (_postgres_server, _redis_server):
            server.start()
        folder = tmp_path_factory.mktemp("cluster")
        unblock = django_db_blocker.unblock
        return Cluster(_postgres_server, _redis_server, folder, unblock, **environment)

    return make


def _template(postgres: PrivatePostgres, environment: dict[str, str]) -> tuple[str, list[str]]:
    """Return the name of a migrated database, and the tokens of its users demo and other."""
    if postgres.port not in _templates:
        url = postgres.new_database()
        made = prepare(environment | {"DATABASE_URL": url, "REDIS_URL": ""}, "demo", "other")
        _templates[postgres.port] = url.rpartition("/")[2], made
    return _templates[postgres.port]


def _disconnect() -> None:
    connection.close()
    if hasattr(connection, "close_pool"):
        connection.close_pool()
