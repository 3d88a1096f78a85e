"""Commands whose standard streams break: the exit code tells how their work has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from django.contrib.auth.models import User

from runs.models import RunRecord, WorkerRecord
from tests.support.commands import ROOT, TIMEOUT_SECONDS, process_environment
from tests.support.consistency import assert_consistent
from tests.support.server import eventually


def _only_run() -> RunRecord:
    return RunRecord.objects.get(parent=None)


def test_a_reader_that_has_enough_is_no_error(demo: User) -> None:
    command = f"{sys.executable} manage.py run_agent count_words --input text=a 2>&1 | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env=process_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert assert_consistent(_only_run()).status == "success"


BROKEN = {
    "no streams": "<&- >&- 2>&-",
    "readers that left": "> >(exec true) 2> >(exec true)",
}


def _in_bash(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=process_environment(**environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("streams", BROKEN.values(), ids=BROKEN)
def test_the_exit_code_tells_of_the_run_whatever_becomes_of_the_streams(
    demo: User, streams: str
) -> None:
    command = f"{sys.executable} manage.py run_agent count_words --input text=a {streams}"
    assert _in_bash(command).returncode == 0
    assert assert_consistent(_only_run()).status == "success"


def test_so_it_does_of_a_run_that_failed(demo: User) -> None:
    command = f"{sys.executable} manage.py run_agent summarise --input document= >&- 2>/dev/full"
    assert _in_bash(command).returncode == 1
    assert _only_run().status == "error"


def test_a_result_that_could_not_be_written_is_told(demo: User) -> None:
    done = _in_bash(
        f"{sys.executable} manage.py run_agent count_words --input text=a 2>&1 >/dev/full"
    )
    assert done.returncode == 0
    assert "Standard output can't be written: No space left on device." in done.stdout


def test_an_old_locale_costs_signs_and_not_the_run(demo: User) -> None:
    command = f"{sys.executable} manage.py run_agent count_words --input text=ä"
    done = _in_bash(command, LANG="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert '"word": "ä"' in done.stdout  # a result goes out as it is


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("stop_run 01994d3c-7b1e-7a52-9c1f-3e1d9a4c8f20", 2),
        pytest.param("delete_old_runs --older-than 1d", 0, marks=pytest.mark.thorough),
    ],
)
def test_other_commands_keep_their_exit_codes(demo: User, command: str, code: int) -> None:
    done = _in_bash(f"{sys.executable} manage.py {command} >/dev/full 2>&-")
    assert done.returncode == code


def test_a_worker_without_streams_works_and_drains(demo: User) -> None:
    """Its database must not get the number of a stream that was closed."""
    started = f"{sys.executable} manage.py runworker --listen 127.0.0.1:0 <&- >&- 2>&- & echo $!"
    worker = int(_in_bash(started).stdout)
    try:
        eventually(
            lambda: WorkerRecord.objects.filter(lost_at=None).exists(), within=TIMEOUT_SECONDS
        )
        names = [os.readlink(f"/proc/{worker}/fd/{number}") for number in (0, 1, 2)]
        assert names == [os.devnull] * 3
    finally:
        os.kill(worker, signal.SIGTERM)
    alive = WorkerRecord.objects.filter(lost_at=None)
    eventually(lambda: not alive.exists(), within=TIMEOUT_SECONDS)
