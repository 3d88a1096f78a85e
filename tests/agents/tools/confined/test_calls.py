"""A function on bytes from outside runs in a process with limits, which a stop kills."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import AgentStopped, cleanup
from agents.tools.confined import calls
from agents.tools.confined.calls import ConfinedError, Refused, call_confined
from tests.support import confined_functions as functions
from tests.support.agent_run import AgentRun, turn_loop, within
from tests.support.processes_gone import is_running, wait_until_busy, wait_until_gone

SECONDS = 10.0


class Spawned:
    """The processes that were started, and a signal for each."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []
        self.changed = asyncio.Condition()

    async def start(self, *args: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*args, **options)
        async with self.changed:
            self.processes.append(process)
            self.changed.notify_all()
        return process

    async def wait_for(self, count: int) -> None:
        async with self.changed:
            await within(SECONDS, self.changed.wait_for(lambda: len(self.processes) >= count))

    def assert_gone(self) -> None:
        for process in self.processes:
            assert process.returncode is not None, "it was not reaped"
            assert not is_running(process.pid)


@pytest.fixture
async def spawned(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spawned]:
    spawned = Spawned()
    monkeypatch.setattr(calls, "start_process", spawned.start)
    yield spawned
    spawned.assert_gone()


async def test_the_function_s_result_comes_back(spawned: Spawned) -> None:
    assert await call_confined(functions.shout, "é".encode(), "ü") == "É ü"
    assert len(spawned.processes) == 1


async def test_large_content_and_results_pass(spawned: Spawned) -> None:
    content, about = b"x" * 5_000_000, "a\0" * 200_000  # more than arguments may have

    result = await call_confined(functions.shout, content, about)

    assert result == "X" * 5_000_000 + " " + about


async def test_a_process_that_can_not_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*args: Any, **options: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(calls, "start_process", start)
    for _ in range(calls.PROCESSES.most + 1):  # its turn is over, too
        with pytest.raises(ConfinedError, match="no process can be started for it: Resource"):
            await within(SECONDS, call_confined(functions.shout, b""))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_process_takes_nothing_along(
    spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_API_KEY", "a secret")

    found = json.loads(await call_confined(functions.surroundings, b""))

    assert "a secret" not in str(found)
    assert set(found["environment"]) <= {"LC_CTYPE"}
    assert len(found["files"]) <= 5  # its pipes, and the listing itself
    assert found["niceness"] >= 10
    assert found["group"]
    assert found["modules"] == []
    assert found["directory"] == "/"


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (functions.refuse, Refused, "it is refused"),
        (functions.fail, ConfinedError, "it has failed with KeyError"),
        (functions.crash, ConfinedError, f"ended with {-signal.SIGABRT}"),
        (functions.eat, ConfinedError, "more than 512 MB of memory"),
    ],
)
async def test_what_goes_wrong_is_told(
    spawned: Spawned, function: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await call_confined(function, b"", "it")


@pytest.mark.parametrize(
    ("needs", "error"),
    [
        ("from django.contrib.auth.models import User", "ImproperlyConfigured"),
        ("import os\nif 'PATH' not in os.environ: raise ValueError('where?')", "ValueError"),
    ],
)
async def test_a_module_that_can_not_be_imported_there_is_named(
    spawned: Spawned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, error: str
) -> None:
    name = f"needs_much_{error.lower()}"
    (tmp_path / f"{name}.py").write_text(f"{needs}\ndef read(content, about): return about\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    with pytest.raises(ConfinedError, match=rf"{name} can't be imported .* \({error}\)") as raised:
        await call_confined(module.read, b"", "it")
    assert not isinstance(raised.value, Refused)  # nothing is wrong with the content


async def test_no_file_is_written(spawned: Spawned, tmp_path: Path) -> None:
    with pytest.raises(ConfinedError, match="failed with OSError"):
        await call_confined(functions.write, b"x" * 100, str(tmp_path / "file"))
    assert not (tmp_path / "file").exists() or (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("function", [functions.spin, functions.spin_in_c])
async def test_time_is_limited(spawned: Spawned, function: Any) -> None:
    started_at = time.monotonic()

    with pytest.raises(ConfinedError, match=r"takes more than [12] s"):
        await call_confined(function, b"", cpu_seconds=1)
    assert time.monotonic() - started_at < 5


async def test_a_result_has_an_end(spawned: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_RESULT_BYTES", 10_000)

    with pytest.raises(ConfinedError, match="more than 10,000 bytes"):
        await call_confined(functions.flood, b"")


@pytest.mark.parametrize("function", [functions.spin, functions.spin_in_c])
async def test_a_stop_kills_the_process_at_once(spawned: Spawned, function: Any) -> None:
    run = AgentRun()
    calling = run.task(call_confined(function, b""))
    await spawned.wait_for(1)
    started_at = time.monotonic()

    run.stop()

    with pytest.raises(AgentStopped):
        await within(SECONDS, calling)
    assert time.monotonic() - started_at < 2
    spawned.assert_gone()


async def test_a_stop_that_comes_first_starts_no_process(spawned: Spawned) -> None:
    run = AgentRun()
    run.stop()

    with pytest.raises(AgentStopped):
        await within(SECONDS, run.task(call_confined(functions.shout, b"x")))
    assert spawned.processes == []


async def test_a_stop_before_the_process_has_started_starts_none(spawned: Spawned) -> None:
    run = AgentRun()
    calling = run.task(call_confined(functions.spin, b""))

    await asyncio.sleep(0)
    run.stop()

    with pytest.raises(AgentStopped):
        await within(SECONDS, calling)


async def test_a_stop_that_comes_after_the_result_changes_nothing(spawned: Spawned) -> None:
    run = AgentRun()

    async def agent() -> str:
        result = await call_confined(functions.shout, b"x")
        run.stop()
        return result

    assert await within(SECONDS, run.task(agent())) == "X "


async def test_a_cleanup_may_still_use_it(spawned: Spawned) -> None:
    run = AgentRun()

    async def agent() -> str:
        async with cleanup():
            run.stop()
            return await call_confined(functions.shout, b"saved")

    assert await within(SECONDS, run.task(agent())) == "SAVED "


async def test_a_cancellation_kills_the_process(spawned: Spawned) -> None:
    calling = asyncio.ensure_future(call_confined(functions.spin, b""))
    await spawned.wait_for(1)

    calling.cancel()
    await turn_loop()
    calling.cancel()  # a second one does not cut the tidying up

    with pytest.raises(asyncio.CancelledError):
        await calling
    spawned.assert_gone()


async def test_one_owner_can_not_take_all_places(
    spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls.PROCESSES, "most", 3)
    greedy = AgentRun()
    greedy.guard.owner = "greedy"
    waiting = [greedy.task(call_confined(functions.spin, b"")) for _ in range(6)]
    await spawned.wait_for(calls.PROCESSES.per_owner)
    other = AgentRun()
    other.guard.owner = "other"

    assert await within(SECONDS, other.task(call_confined(functions.shout, b"x"))) == "X "

    assert len(spawned.processes) == calls.PROCESSES.per_owner + 1
    greedy.stop()  # those that wait for a place end as well
    ends = await within(SECONDS, asyncio.gather(*waiting, return_exceptions=True))
    assert {type(end) for end in ends} == {AgentStopped}
    assert len(spawned.processes) == calls.PROCESSES.per_owner + 1


async def test_a_place_is_given_back(spawned: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.PROCESSES, "most", 1)

    ends = await within(
        30,
        asyncio.gather(
            *(call_confined(functions.refuse, b"", "it") for _ in range(4)), return_exceptions=True
        ),
    )

    assert {type(end) for end in ends} == {Refused}


PARENT = """
import asyncio, os, sys
from agents.tools.confined import calls
from tests.support import confined_functions as functions

start = calls.start_process

async def told(*args, **options):
    process = await start(*args, **options)
    print(process.pid, flush=True)
    return process

calls.start_process = told
asyncio.run(calls.call_confined(getattr(functions, sys.argv[1]), b""))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_process_ends_with_its_input(spawned: Spawned) -> None:
    """That is how it learns of its parent's end on systems that don't kill it."""
    calling = asyncio.ensure_future(call_confined(functions.spin, b""))
    await spawned.wait_for(1)
    process = spawned.processes[0]
    await asyncio.to_thread(wait_until_busy, process.pid, SECONDS)
    assert process.stdin is not None

    process.stdin.close()

    with pytest.raises(ConfinedError, match="ended with 1"):
        await within(SECONDS, calling)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["spin", "spin_in_c"])
def test_the_process_dies_with_its_parent(name: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, name], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        wait_until_busy(pid, SECONDS)

        parent.kill()
        parent.wait()

    wait_until_gone(pid, SECONDS)
