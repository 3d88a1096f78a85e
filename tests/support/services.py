"""PostgreSQL, PgBouncer and Redis servers that tests may stop, restart and freeze.

The servers at DATABASE_URL and REDIS_URL are shared, so tests leave those alone. These start once
per session, in a second or two. They don't survive a power cut: no fsync.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from .databases import create_database
from .server import eventually

__all__ = [
    "PrivatePgBouncer",
    "PrivatePostgres",
    "PrivateRedis",
    "_postgres_server",
    "_redis_server",
    "private_pgbouncer",
    "private_postgres",
    "private_redis",
]

WITHIN_SECONDS = 20.0
_POSTGRES_PROGRAMS = "/usr/lib/postgresql/*/bin"  # Debian's folder, which is not in the PATH
_POOLER_EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "pgbouncer.ini"


class _Server:
    """A process that listens on its own port, which stays the same across restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether it serves."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it if it is not running; return when it serves."""
        self.resume()
        if self.is_running:
            return
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=_unprivileged(),
                group=_unprivileged(),
                extra_groups=[] if _unprivileged() else None,
            )
        eventually(self._is_up, f"{self.command()[0]} serves", WITHIN_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it and all its connections, immediately by default. SIGKILL crashes it."""
        self.resume()
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(WITHIN_SECONDS)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def pause(self) -> None:
        """Freeze it: open connections stay, new ones are accepted, and no answer comes."""
        self._signal_all(signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        """Continue after a pause."""
        if self._is_paused:
            self._is_paused = False
            self._signal_all(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextlib.contextmanager
    def away(self, how: signal.Signals = signal.SIGINT) -> Iterator[None]:
        """Stop it for the duration of the block."""
        self.stop(how)
        try:
            yield
        finally:
            self.start()

    def _is_up(self) -> bool:
        assert self.is_running, (self.folder / "log").read_text()
        return self.answers()

    def _signal_all(self, what: signal.Signals) -> None:
        assert self._process is not None
        for pid in [self._process.pid, *_children(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)


class PrivatePostgres(_Server):
    """A cluster without passwords, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        _give_away(folder)
        subprocess.run(
            [
                *(_program("initdb"), "--pgdata", "data", "--username", "postgres"),
                *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            user=_unprivileged(),
            group=_unprivileged(),
            extra_groups=[] if _unprivileged() else None,
        )

    def command(self) -> Sequence[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_connections": 300,
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", "data", *given]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        """Return a DATABASE_URL."""
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """Make a database, as a copy of ``template``, which is not in use; return its URL."""
        return create_database(self.url("postgres"), template)

    def break_connections(self, but: int = 0) -> None:
        """Cut all connections to all databases, as a failover or an administrator does.

        Only the session of the server process ``but`` stays.
        """
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid NOT IN (pg_backend_pid(), %s)",
                [but],
            )


class PrivatePgBouncer(_Server):
    """The example of deploy/pgbouncer.ini, in front of a private PostgreSQL."""

    def __init__(self, folder: Path, postgres: PrivatePostgres) -> None:
        super().__init__(folder)
        example = _POOLER_EXAMPLE.read_text()
        changes = {
            r"^halting = .*$": f"* = host=127.0.0.1 port={postgres.port} user=postgres",
            r"^listen_port = .*$": f"listen_port = {self.port}\nunix_socket_dir =",
            r"^auth_type = .*$": "auth_type = any",
            r"^auth_file = .*$": "",
            # Each transaction gets another session, even if no other transaction needs one.
            r"^pool_mode = transaction$": "pool_mode = transaction\nserver_round_robin = 1",
        }
        for was, becomes in changes.items():
            example, count = re.subn(was, becomes, example, flags=re.MULTILINE)
            assert count == 1, was
        (folder / "pgbouncer.ini").write_text(example)

    def command(self) -> Sequence[str]:
        return [_program("pgbouncer"), "pgbouncer.ini"]

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        """Return a DATABASE_URL for a database of its PostgreSQL."""
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"


class PrivateRedis(_Server):
    """A Redis that keeps nothing across restarts."""

    def command(self) -> Sequence[str]:
        return [
            *(_program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no"),
        ]

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def url(self) -> str:
        """A REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[PrivatePostgres]:
    _skip_without("initdb", "postgres")
    with _folder() as folder, contextlib.closing(_Stopping(PrivatePostgres(folder))) as stopping:
        yield stopping.server


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[PrivateRedis]:
    _skip_without("redis-server")
    with _folder() as folder, contextlib.closing(_Stopping(PrivateRedis(folder))) as stopping:
        yield stopping.server


@pytest.fixture
def private_postgres(_postgres_server: PrivatePostgres) -> PrivatePostgres:
    """A PostgreSQL that tests may stop; it is running, whatever an earlier test did to it."""
    _postgres_server.start()
    return _postgres_server


@pytest.fixture
def private_redis(_redis_server: PrivateRedis) -> PrivateRedis:
    """A Redis that tests may stop; it is running, whatever an earlier test did to it."""
    _redis_server.start()
    return _redis_server


@pytest.fixture
def private_pgbouncer(private_postgres: PrivatePostgres) -> Iterator[PrivatePgBouncer]:
    """A PgBouncer in front of ``private_postgres``, as deploy/ has it."""
    _skip_without("pgbouncer")
    with _folder() as folder:
        server = PrivatePgBouncer(folder, private_postgres)
        with contextlib.closing(_Stopping(server)):
            server.start()
            yield server


class _Stopping:
    def __init__(self, server: _Server) -> None:
        self.server = server

    def close(self) -> None:
        if self.server.is_running:
            self.server.stop(signal.SIGQUIT if _is_postgres(self.server) else signal.SIGKILL)


def _is_postgres(server: object) -> bool:
    return isinstance(server, PrivatePostgres)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's: other users can't read those, and pytest may keep them.
    with tempfile.TemporaryDirectory(prefix="private-", ignore_cleanup_errors=True) as name:
        _give_away(Path(name))
        yield Path(name)


def _give_away(folder: Path) -> None:
    if _unprivileged():
        shutil.chown(folder, _unprivileged(), _unprivileged())


def _unprivileged() -> str | None:
    """Return the user of the servers: PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


def _find_program(name: str) -> str | None:
    folders = ["/usr/sbin", *map(str, Path("/").glob(_POSTGRES_PROGRAMS[1:]))]
    debian = os.pathsep.join(folders)
    return shutil.which(name) or shutil.which(name, path=debian)


def _program(name: str) -> str:
    path = _find_program(name)
    assert path is not None, f"{name} is not installed"
    return path


def _skip_without(*programs: str) -> None:
    missing = [name for name in programs if _find_program(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}, which the tests start and stop themselves")


def _free_port() -> int:
    """Find a port that no outgoing connection gets while its server is away."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


def _children(pid: int) -> list[int]:
    """Return the child processes of ``pid`` (PostgreSQL has one for each connection)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:  # ppid, the fourth of proc_pid_stat(5)
                found.append(int(path.parent.name))
    return found
