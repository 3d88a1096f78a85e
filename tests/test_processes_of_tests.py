"""A process that tests fork is like one that `python manage.py` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Process, run_manage, start_manage
from tests.support.server import eventually

_INSPECT = """
import asyncio, gc, json, os, random, resource, secrets, signal, sys, threading, uuid, warnings
from django.conf import settings
from uuid_utils import uuid7
state = {
    "signals": {s.name: str(signal.getsignal(s)) for s in signal.valid_signals() if s < 32},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "streams": [
        (s.encoding, s.errors, s.isatty(), s.line_buffering, s.write_through, s.mode, s.name)
        for s in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "threads": [t.name for t in threading.enumerate()],
    "warnings": [str(f) for f in warnings.filters],
    "gc": (gc.isenabled(), gc.get_threshold()),
    "environment": {k: v for k, v in os.environ.items() if k not in {"_", "SHLVL"}},  # bash
    "folder": os.getcwd(),
    "path": sys.path,
    "argv": sys.argv,
    "flags": str(sys.flags),
    "hooks": [sys.excepthook is sys.__excepthook__, sys.stdout is sys.__stdout__],
    "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
    "group": os.getpgid(0),
    "session": os.getsid(0),
    "umask": os.umask(0),
}
tail = uuid7().int & 0xFFFFFFFF
chance = [random.random(), secrets.token_hex(), str(uuid.uuid4()), str(uuid7()), tail]
print(json.dumps({"state": state, "chance": chance}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "DJANGO_DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "REDIS_URL": "",
        "PYTHONUNBUFFERED": "1",
    }


def _inspect(environment: dict[str, str], tmp_path: Path, **how: Any) -> dict[str, Any]:
    with (tmp_path / "out").open("w+b") as out:
        process = start_manage(
            "shell", "--no-imports", "-c", _INSPECT, environment=environment, stdout=out, **how
        )
        assert process.wait(60) == 0, (tmp_path / "out").read_text()
    return dict(json.loads((tmp_path / "out").read_text()))


@pytest.mark.parametrize("how", [{}, {"descriptors": 200, "unbuffered": False}])
def test_a_forked_process_has_the_state_of_a_fresh_one(
    environment: dict[str, str], tmp_path: Path, how: dict[str, Any]
) -> None:
    if not how.pop("unbuffered", True):
        del environment["PYTHONUNBUFFERED"]
    forked = _inspect(environment, tmp_path, **how)["state"]
    assert forked == _inspect(environment, tmp_path, fresh=True, **how)["state"]


def test_two_forked_processes_draw_different_random_numbers(
    environment: dict[str, str], tmp_path: Path
) -> None:
    one, other = (_inspect(environment, tmp_path)["chance"] for _ in range(2))
    assert not set(one) & set(other)


def test_a_process_with_a_new_session_leads_it(environment: dict[str, str], tmp_path: Path) -> None:
    state = _inspect(environment, tmp_path, new_session=True)["state"]
    assert state["session"] == state["group"] != os.getsid(0)


def test_its_session_exists_when_its_pid_is_known(environment: dict[str, str]) -> None:
    """Otherwise a test that kills its group at once would kill this session and its parent."""
    for _ in range(5):
        with open(os.devnull, "wb") as out:
            process = start_manage("check", environment=environment, stdout=out, new_session=True)
        group = os.getpgid(process.pid)
        process.kill()
        process.wait(20)
        assert group == process.pid


def test_output_and_errors_are_separate_and_the_status_is_returned(
    environment: dict[str, str],
) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    done = run_manage("shell", "--no-imports", "-c", code, environment=environment)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    done = run_manage("shell", "--no-imports", "-c", "1 / 0", environment=environment)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def _sleeper(environment: dict[str, str], log: Path) -> Process:
    code = "import time; print('sleeps'); time.sleep(60)"
    with log.open("wb") as out:
        process = start_manage(
            "shell", "--no-imports", "-c", code, environment=environment, stdout=out
        )
    eventually(lambda: "sleeps" in log.read_text(), "it sleeps")
    return process


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_ends_it_is_its_status(
    environment: dict[str, str], tmp_path: Path, sig: signal.Signals
) -> None:
    process = _sleeper(environment, tmp_path / "log")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.send_signal(sig)
    assert process.wait(20) == -sig
    assert (process.poll(), process.returncode) == (-sig, -sig)
    process.kill()  # no process has this pid now
