"""manage.py commands as real processes, on the database of the test."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from django.db import connection

from tests.support.processes import start_manage

__all__ = ["ROOT", "TIMEOUT_SECONDS", "Process", "Terminal", "process_environment", "run_agent"]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 40


class Process:
    """A manage.py process on the test's database, and what it says."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.began = time.monotonic()
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        self._process = start_manage(
            *arguments,
            environment=process_environment(**environment),
            stdout=its_out,
            stderr=its_err,
        )
        os.close(its_out)
        os.close(its_err)
        self._out, self._err = open(out), open(err)  # noqa: SIM115 - closed by kill
        self.err = ""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._err:
            with self._news:
                self.err += line
                self._news.notify_all()

    def wait_for(self, words: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: words in self.err, TIMEOUT_SECONDS), self.err

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Return the exit code and standard output."""
        out = self._out.read()
        code = self._process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)
        assert "Traceback" not in self.err, self.err
        return code, out

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(TIMEOUT_SECONDS)
        self._reader.join(TIMEOUT_SECONDS)
        self._out.close()
        self._err.close()


class Terminal:
    """A manage.py process on a terminal of its own, which turns keys into signals.

    Attributes:
        screen: all that came, without colours.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            cwd=ROOT,
            env=process_environment(
                TERM="xterm-256color", COLUMNS="100", LINES="30", **environment
            ),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, words: str) -> None:
        """Read until some words have come."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while words not in self.screen:
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, f"{words!r} did not come: {self.screen}"
            try:
                raw = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                raise AssertionError(f"{words!r} did not come: {self.screen}") from None
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        self.screen += re.sub(r"\x1b\[[0-9;]*m", "", raw.decode(errors="replace"))

    def end(self) -> tuple[int, str]:
        """Return the exit code and standard output."""
        assert self._process.stdout is not None
        code = self._process.wait(TIMEOUT_SECONDS)
        with contextlib.suppress(OSError):
            while raw := os.read(self._ours, 65536):
                self._take(raw)
        return code, self._process.stdout.read().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(TIMEOUT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._ours)


#: A session of its own that the terminal controls: only then Ctrl-C is a signal.
_ON_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "manage.py", *sys.argv[1:]])
"""


def _test_database_url() -> str:
    """Return the address under which another process finds the database of this test."""
    options = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{options['NAME']}"
    user = quote(f"{options['USER']}:{options['PASSWORD']}", safe=":")
    return f"postgres://{user}@{options['HOST']}:{options['PORT']}/{options['NAME']}"


def process_environment(**changes: str) -> dict[str, str]:
    return os.environ | {
        "DATABASE_URL": _test_database_url(),
        "DJANGO_DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "LLM_BASE_URL": "",
        "LLM_API_KEY": "",
        **changes,
    }


@contextmanager
def run_agent(*arguments: str, **environment: str) -> Iterator[Process]:
    process = Process("run_agent", *arguments, **environment)
    try:
        yield process
    finally:
        process.kill()
