"""`manage.py runserver`, as a real process; and its server, whose first signal only drains."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from runs.management.commands.runserver import _bind, _serves_static_files
from runs.ops.accounts import DEMO_USERS, create_missing_demo_users, find_open_demo_users
from runs.ops.serving import DrainingServer
from tests.support.processes import Process, start_manage
from tests.support.server import Installation

ROOT = Path(__file__).resolve().parents[3]
_TIMEOUT_SECONDS = 30


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("runserver")
    return Installation(folder, DJANGO_SETTINGS_MODULE="project.settings")


@pytest.fixture(scope="module")
def environment(installation: Installation) -> dict[str, str]:
    """Return the environment of a fresh, migrated debug installation with the demo users."""
    return installation.environment


class Server:
    """A runserver process, and its output so far."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        return re.search(r"http://\S+?/", self.wait_for("  model "))[0]  # type: ignore[index]

    def wait_for(self, text: str) -> str:
        _wait_until(lambda: text in self.output or self.process.poll() is not None)
        assert text in self.output, self.output
        return self.output

    def is_answering(self) -> bool:
        try:
            return httpx.get(f"{self.url}health/live", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def _runserver(*arguments: str, environment: dict[str, str], log: Path) -> Iterator[Server]:
    with log.open("wb") as out:
        # A group of its own, so that a signal to all of it is like Ctrl-C in its terminal.
        process = start_manage(
            "runserver",
            *arguments,
            environment=environment,
            stdout=out,
            new_session=True,
            fresh="--noreload" not in arguments,  # as a newcomer starts it
        )
        try:
            yield Server(process, log)
        finally:
            with_children = os.getpgid(process.pid) if process.poll() is None else None
            if with_children is not None:
                os.killpg(with_children, signal.SIGKILL)
            process.wait(_TIMEOUT_SECONDS)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _refusal(*arguments: str) -> str:
    """Call a runserver that is to refuse, and return what it says."""
    with pytest.raises(CommandError) as refused:
        call_command("runserver", *arguments, "--noreload")
    return str(refused.value)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_an_idle_one_leaves_at_the_first_signal(
    environment: dict[str, str], tmp_path: Path, sig: signal.Signals
) -> None:
    with _runserver("0", "--noreload", environment=environment, log=tmp_path / "log") as server:
        assert server.is_answering()
        began = time.monotonic()
        server.process.send_signal(sig)
        assert server.process.wait(_TIMEOUT_SECONDS) == 0
        # Measured: 0.4 s. The margin is for a busy machine.
        assert time.monotonic() - began < 5
    assert "Traceback" not in server.output


def test_it_says_where_it_is_who_may_log_in_and_which_model_answers(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with _runserver("0", "--noreload", environment=environment, log=tmp_path / "log") as server:
        output = server.wait_for("  model ")
    assert "demo/demo (ordinary), admin/admin (superuser)" in output
    assert "stand-in" in output
    assert re.search(r"http://127\.0\.0\.1:[1-9]\d+/", output)


def test_ctrl_c_reaches_reloader_and_server_and_still_drains_only_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with _runserver("0", environment=environment, log=tmp_path / "log") as server:
        _wait_until(server.is_answering)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(_TIMEOUT_SECONDS) == 0
    assert server.output.count("draining") == 1
    assert "Traceback" not in server.output


def test_the_server_does_not_outlive_a_killed_reloader(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with _runserver("0", environment=environment, log=tmp_path / "log") as server:
        _wait_until(server.is_answering)
        server.process.kill()
        server.process.wait(_TIMEOUT_SECONDS)
        _wait_until(lambda: not server.is_answering())


@pytest.mark.thorough
def test_it_reloads_when_a_source_of_an_installed_app_changes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    app = tmp_path / "mine"
    app.mkdir()
    (app / "__init__.py").touch()
    (tmp_path / "mine_settings.py").write_text(
        "from project.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'mine']\n"
    )
    mine = environment | {
        "PYTHONPATH": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "mine_settings",
    }
    with _runserver("0", environment=mine, log=tmp_path / "log") as server:
        _wait_until(server.is_answering)
        # Whether the watch is set by now can't be seen from outside: change it until it is.
        _wait_until(lambda: bool((app / "agents.py").write_text("#")) and _reloaded(server))
        _wait_until(server.is_answering)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(_TIMEOUT_SECONDS) == 0


def _reloaded(server: Server) -> bool:
    time.sleep(0.5)
    return "Reloading" in server.output


def test_a_taken_port_is_one_line_and_a_1(environment: dict[str, str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "manage.py", "runserver", str(port)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"CommandError: Can't listen on {port}: that port is already in use."
    )


@pytest.mark.django_db
@pytest.mark.parametrize("addrport", ["eight", "1:2:3", "99999", "127.0.0.1", "[::1]"])
def test_a_malformed_address_is_a_clear_error(addrport: str, settings: Any) -> None:
    settings.DEBUG = True
    assert "not a valid port" in _refusal(addrport)


@pytest.mark.django_db
@pytest.mark.parametrize("addrport", ["0.0.0.0:0", "0:0", "[::]:0"])
def test_it_stays_on_this_machine_while_everybody_knows_the_passwords(
    addrport: str, settings: Any
) -> None:
    settings.DEBUG = True
    create_missing_demo_users()
    message = _refusal(addrport)
    assert "demo/demo" in message
    assert "changepassword" in message


@pytest.mark.django_db
def test_it_may_be_reached_from_elsewhere_once_the_passwords_are_changed(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    for demo in create_missing_demo_users():
        user = get_user_model().objects.get(username=demo.name)
        user.set_password("another")
        user.save()
    served = []
    monkeypatch.setattr(
        "runs.management.commands.runserver.serve",
        lambda _, sockets: served.append(sockets[0].getsockname()[0]) or sockets[0].close(),
    )
    call_command("runserver", "0.0.0.0:0", "--noreload")
    assert served == ["0.0.0.0"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("hosts", "key", "missing"),
    [
        ([], "long and random", "DJANGO_ALLOWED_HOSTS"),
        (["x"], "django-insecure-not-secret", "_SECRET_KEY"),
    ],
)
def test_outside_debug_it_wants_hosts_and_a_key(
    hosts: list[str], key: str, missing: str, settings: Any
) -> None:
    settings.ALLOWED_HOSTS, settings.SECRET_KEY = hosts, key
    assert missing in _refusal("0")


@pytest.mark.parametrize(
    ("is_debug", "app", "expected"),
    [
        (True, "django.contrib.staticfiles", True),
        (False, "django.contrib.staticfiles", False),
        (True, "whitenoise.runserver_nostatic", False),
    ],
)
def test_static_files_are_served_in_debug_mode_unless_whitenoise_does(
    settings: Any, is_debug: bool, app: str, expected: bool
) -> None:
    settings.DEBUG = is_debug
    others = [name for name in settings.INSTALLED_APPS if name != "whitenoise.runserver_nostatic"]
    settings.INSTALLED_APPS = list(dict.fromkeys([*others, app]))
    assert _serves_static_files() is expected


@pytest.mark.django_db
class TestDemoUsers:
    def test_they_are_made_once_and_an_existing_one_keeps_its_password(self, settings: Any) -> None:
        settings.DEBUG = True
        mine = get_user_model().objects.create_user("demo", password="mine")
        call_command("create_demo_users", verbosity=0)
        call_command("create_demo_users", verbosity=0)
        mine.refresh_from_db()
        assert mine.check_password("mine")
        admin = get_user_model().objects.get(username="admin")
        assert admin.is_superuser
        assert find_open_demo_users() == [DEMO_USERS[1]]

    def test_they_are_never_made_outside_debug(self) -> None:
        with pytest.raises(CommandError, match="DJANGO_DEBUG"):
            call_command("create_demo_users")
        assert not get_user_model().objects.exists()

    def test_one_who_may_not_log_in_is_no_danger(self) -> None:
        create_missing_demo_users()
        get_user_model().objects.update(is_active=False)
        assert find_open_demo_users() == []


class FakeLifespan:
    """Stands in for runs.asgi.lifespan: a drain that takes until the test says so."""

    def __init__(self) -> None:
        self.drain_began = asyncio.Event()
        self.drain_may_end = asyncio.Event()
        self.calls: list[str] = []

    async def drain(self) -> None:
        self.calls.append("drain")
        self.drain_began.set()
        await self.drain_may_end.wait()

    async def stop(self) -> None:
        self.calls.append("stop")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["lifespan"] = self
            await send({"type": "lifespan.startup.complete"})
            try:
                await receive()
            except asyncio.CancelledError:
                return
            self.calls.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})


Served = Callable[..., Awaitable[tuple[DrainingServer, asyncio.Task[None], str]]]


@pytest.fixture
async def lifespan() -> FakeLifespan:
    return FakeLifespan()


@pytest.fixture
async def served(lifespan: FakeLifespan) -> Any:
    """Start a server in this loop; return it, its task and its address."""
    tasks = []

    async def start(**options: bool) -> tuple[DrainingServer, asyncio.Task[None], str]:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(lifespan, lifespan="on", log_config=None, access_log=False)
        server = DrainingServer(config, **options)
        # _serve: without the signal handlers of this process.
        tasks.append(asyncio.create_task(server._serve([listener])))
        async with asyncio.timeout(5):
            while not server.started:
                await asyncio.sleep(0.01)
        return server, tasks[0], f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    lifespan.drain_may_end.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_http_is_served_while_draining(lifespan: FakeLifespan, served: Served) -> None:
    server, task, url = await served()
    async with httpx.AsyncClient() as client, asyncio.timeout(5):
        server.handle_exit(signal.SIGTERM, None)
        await lifespan.drain_began.wait()
        assert (await client.get(url)).text == "served"
        assert not task.done()

        lifespan.drain_may_end.set()
        await task
    assert lifespan.calls == ["drain", "shutdown"]


async def test_a_second_signal_leaves_at_once(lifespan: FakeLifespan, served: Served) -> None:
    server, task, _ = await served()
    async with asyncio.timeout(5):
        server.handle_exit(signal.SIGTERM, None)
        await lifespan.drain_began.wait()
        server.handle_exit(signal.SIGINT, None)
        await task
    assert lifespan.calls == ["drain", "stop"]


async def test_under_the_reloader_only_the_same_signal_again_hurries(
    lifespan: FakeLifespan, served: Served
) -> None:
    server, task, _ = await served(is_supervised=True)
    async with asyncio.timeout(5):
        server.handle_exit(signal.SIGINT, None)  # Ctrl-C, in both processes
        server.handle_exit(signal.SIGTERM, None)  # which the reloader passes on
        await lifespan.drain_began.wait()
        assert not server.force_exit
        server.handle_exit(signal.SIGINT, None)
        await task
    assert lifespan.calls == ["drain", "stop"]


async def test_a_drain_that_fails_does_not_keep_the_server_up(
    lifespan: FakeLifespan,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise OSError("the database is gone")

    monkeypatch.setattr(lifespan, "drain", fail)
    server, task, _ = await served()
    server.handle_exit(signal.SIGTERM, None)
    async with asyncio.timeout(5):
        await task
    assert "the drain failed" in caplog.text


def test_answers_on_a_connection_in_use_do_not_wait_for_nagle() -> None:
    """asyncio sets TCP_NODELAY only where the socket's protocol says TCP."""
    with closing(_bind("127.0.0.1:0", False, [])) as listener:
        host, port = listener.getsockname()
        with socket.create_connection((host, port)), closing(listener.accept()[0]) as accepted:
            assert accepted.proto == socket.IPPROTO_TCP
