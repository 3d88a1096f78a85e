"""A process ends although a thread that an agent left goes on, and its status is the process's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.processes import start_manage
from tests.support.server import Installation, Server, eventually

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

HOWS = ["executor", "pool", "thread", "daemon"]


def _has_left(server: Server, run: str) -> bool:
    return any("has left" in str(event["data"].get("message")) for event in server.events(run))


@pytest.mark.parametrize("how", HOWS)
def test_a_server_ends_with_0_and_its_log_names_the_thread(tmp_path: Path, how: str) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="0")
    with site.serving() as server:
        run = server.start("site-leaves", how=how)
        eventually(lambda: _has_left(server, run), "the agent has left a thread")
        server.terminate()
        assert server.process.wait(40) == 0, server.output[-3_000:]
        _assert_named(server.output, how)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_second_signal_leaves_at_once_with_1(tmp_path: Path, leaves: bool) -> None:
    """Whether a thread was left or not: it has not drained."""
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="60")
    with site.serving() as server:
        run = server.start("site-loop")
        server.until_it_works(run)
        if leaves:
            leaving = server.start("site-leaves", how="thread")
            eventually(lambda: _has_left(server, leaving), "the agent has left a thread")
        server.terminate()
        eventually(lambda: "draining" in server.output, "it drains")
        server.terminate()
        assert server.process.wait(15) == 1, server.output[-3_000:]


def test_a_worker_ends_with_0_and_its_log_names_the_thread(tmp_path: Path) -> None:
    site = Installation(tmp_path, RUNS_DRAIN_SECONDS="0")
    with site.serving(RUNS_EMBEDDED_WORKER="0") as server, site.working() as worker:
        run = server.start("site-leaves", how="thread")
        eventually(lambda: _has_left(server, run), "the agent has left a thread")
        worker.terminate()
        assert worker.process.wait(40) == 0, worker.output[-3_000:]
        _assert_named(worker.output, "thread")


@pytest.mark.parametrize("how", ["pool", "thread", "daemon"])
def test_a_command_ends_with_the_status_of_its_run(tmp_path: Path, how: str) -> None:
    started = time.monotonic()
    status, output, errors = _run_agent(tmp_path, how=how)
    assert status == 0, errors
    assert time.monotonic() - started < 20, "it did not wait for the thread"
    _assert_named(errors, how)
    assert "left\n" in output


def test_a_command_ends_with_the_status_of_a_run_that_fails(tmp_path: Path) -> None:
    status, _, errors = _run_agent(tmp_path, how="thread", fails="true")
    assert status == 1
    _assert_named(errors, "thread")


def test_a_thread_that_ends_soon_is_waited_for(tmp_path: Path) -> None:
    status, output, errors = _run_agent(tmp_path, how="thread", seconds="0.5")
    assert (status, output) == (0, "left\n")
    assert "leaves threads" not in errors


def _run_agent(folder: Path, **input: str) -> tuple[int, str, str]:
    """Run ``site-leaves`` by the command, in an interpreter that ends as Python does."""
    arguments = [word for name, value in input.items() for word in ("--input", f"{name}={value}")]
    out, err = folder / "out", folder / "err"
    site = Installation(folder)  # its database goes with it
    with out.open("wb") as output, err.open("wb") as errors:
        process = start_manage(
            *("run_agent", "site-leaves", "--user", "demo", *arguments),
            environment=site.environment,
            stdout=output,
            stderr=errors,
            fresh=True,
        )
    try:
        status = process.wait(40)
    finally:
        process.kill()
    return status, out.read_text(), err.read_text()


def _assert_named(output: str, how: str) -> None:
    [line] = [line for line in output.splitlines() if "leaves threads that go on" in line]
    assert ("print_on" if how == "daemon" else "sleep_on") in line
    assert "leavers.py:" in line
