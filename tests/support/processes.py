"""Starts `manage.py` as a separate process, forked from one that has imported the libraries.

That saves a second per start (see ``prefork.py``). FRESH_PROCESSES=1 starts real interpreters
instead, to check that the difference doesn't matter; so does an environment that changes Python's
own setup. Tests of the start, the reloader, a terminal or a pipe start their own processes.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from .prefork import Request

__all__ = ["Process", "run_manage", "start_manage"]

ROOT = Path(__file__).resolve().parent.parent.parent
_SERVER = Path(__file__).with_name("prefork.py")
_BY_REQUEST = {"PYTHONUNBUFFERED"}  # a fork handles these by itself


class Process(Protocol):
    """The part of subprocess.Popen that tests need."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start_manage(
    *arguments: str,
    environment: Mapping[str, str],
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int | None = None,
    new_session: bool = False,
    descriptors: int | None = None,
    fresh: bool = False,
    folder: Path = ROOT,
    paths: Sequence[Path] = (),
) -> Process:
    """Start ``python manage.py`` with an empty standard input.

    Without ``stderr``, errors go where ``stdout`` goes. The process may open ``descriptors`` files.
    With ``fresh`` it is always a new interpreter. ``folder`` has the ``manage.py``, and ``paths``
    are where it finds more modules.
    """
    errors = stdout if stderr is None else stderr
    if fresh or _must_be_fresh(environment):
        limited = ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "-"] if descriptors else []
        return subprocess.Popen(
            [*limited, sys.executable, "manage.py", *arguments],
            cwd=folder,
            env={
                **environment,
                **({"PYTHONPATH": os.pathsep.join(map(str, paths))} if paths else {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=errors,
            start_new_session=new_session,
        )
    request: Request = {
        "arguments": list(arguments),
        "environment": dict(environment),
        "folder": str(folder),
        "paths": [str(path) for path in paths],
        "new_session": new_session,
        "descriptors": descriptors,
    }
    with open(os.devnull, "rb") as nothing:
        return _server.start(request, nothing.fileno(), _number(stdout), _number(errors))


def run_manage(
    *arguments: str, environment: Mapping[str, str], timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python manage.py`` to its end, as subprocess.run does with its output captured."""
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        process = start_manage(
            *arguments, environment=environment, stdout=out, stderr=err, **options
        )
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            ["manage.py", *arguments], status, out.read().decode(), err.read().decode()
        )


class _Forked:
    """A process that the server has forked: a child of the server, not of this process."""

    def __init__(self, ending: socket.socket) -> None:
        self._ending = ending
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._ending], [], [], 0)[0]:
                self.returncode = self._read()
                self._ending.close()
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("manage.py", timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._ending.recv(1)
            assert byte, "the server that forks has died"
            line += byte
        return int(line)


class _Server:
    """The server: it starts with the first process, and ends with this one and all its children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: socket.socket | None = None

    def start(self, request: Request, *streams: int) -> _Forked:
        ending, theirs = socket.socketpair()
        with self._lock:
            if self._requests is None:
                self._start_server()
            assert self._requests is not None
            with theirs:
                socket.send_fds(self._requests, [b"+"], [theirs.fileno(), *streams])
        ending.sendall(json.dumps(request).encode())
        ending.shutdown(socket.SHUT_WR)
        return _Forked(ending)

    def _start_server(self) -> None:
        self._requests, theirs = socket.socketpair()
        with theirs:
            bytecode = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            process = subprocess.Popen(
                [sys.executable, str(_SERVER), bytecode.name], cwd=ROOT, stdin=theirs
            )
        atexit.register(self._end, process, bytecode)

    def _end(
        self, process: subprocess.Popen[bytes], bytecode: tempfile.TemporaryDirectory[str]
    ) -> None:
        assert self._requests is not None
        self._requests.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        bytecode.cleanup()


_server = _Server()


def _must_be_fresh(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for an interpreter that a fork can't be."""
    names = {name for name in {*environment, *os.environ} if name.startswith("PYTHON")}
    differs = any(environment.get(name) != os.environ.get(name) for name in names - _BY_REQUEST)
    return differs or bool(os.environ.get("FRESH_PROCESSES")) or sys.platform != "linux"


def _number(stream: IO[bytes] | int) -> int:
    return stream if isinstance(stream, int) else stream.fileno()
