"""Programs that agents run: their output, their exit, and how they are ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import ProcessResult, SyncTools, Tools
from agents.tools.process import calls
from tests.support.agent_run import AgentRun, within
from tests.support.started_run import SECONDS, Started, in_flight, turns

PYTHON = [sys.executable, "-I", "-S", "-c"]


async def test_a_program_runs_to_its_end_and_gives_its_output() -> None:
    async def work(tools: Tools) -> None:
        results.append(
            await tools.process(["sh", "-c", "cat; echo to stderr >&2; exit 3"], input="hello\n")
        )

    results: list[ProcessResult] = []
    run = Started(work)
    await run.outcome()
    assert results == [ProcessResult(3, "hello\n", "to stderr\n")]
    data = run.only("process")
    assert (data["tool"], data["label"], data["outcome"]) == ("process", "sh", "ok")
    assert data["returncode"] == 3
    assert sorted((d["stream"], d["text"]) for d in run.events("stdout")) == [
        ("stderr", "to stderr"),
        ("stdout", "hello"),
    ]


async def test_a_def_agent_runs_programs_too() -> None:
    def work(tools: SyncTools) -> str:
        return tools.process(["printf", "%s", "hello"]).stdout

    assert (await Started(work).outcome()).result == "hello"


async def test_the_arguments_are_not_in_the_log() -> None:
    async def work(tools: Tools) -> None:
        await tools.process(["/bin/sh", "-c", "exit 0", "a-secret-word"])

    run = Started(work)
    await run.outcome()
    assert "a-secret-word" not in str([event.as_dict() for event in run.sink.events])
    assert "/bin" not in run.only("process")["label"]


async def test_a_program_has_none_of_the_workers_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://password")

    async def work(tools: Tools) -> list[str]:
        given = await tools.process(["env"], env={"MINE": "1", "PATH": os.environ["PATH"]})
        return [(await tools.process(["env"])).stdout, given.stdout]

    by_default, given = (await Started(work).outcome()).result
    assert "PATH=" in by_default
    assert "password" not in by_default
    assert "MINE=1" in given
    assert "HOME" not in given


async def test_a_program_that_does_not_exist_exits_with_127() -> None:
    async def work(tools: Tools) -> list[Any]:
        result = await tools.process(["no-such-program"])
        return [result.returncode, result.stderr]

    assert (await Started(work).outcome()).result == [
        127,
        "no-such-program: No such file or directory\n",
    ]


@pytest.mark.parametrize("argv", ["ls -l", [], b"ls"])
async def test_a_command_line_is_no_list_of_arguments(argv: Any) -> None:
    async def work(tools: Tools) -> None:
        await tools.process(argv)

    run = Started(work)
    assert (await run.outcome()).error["type"] == "TypeError"  # type: ignore[index]
    assert not run.events("process")


async def test_output_is_kept_and_logged_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_OUTPUT_BYTES", 10)
    monkeypatch.setattr(calls, "MAX_LOGGED_LINES", 2)
    monkeypatch.setattr(calls, "MAX_LINE", 5)

    async def work(tools: Tools) -> None:
        results.append(await tools.process(["printf", "1\\n1234567\\n3\\n4\\n5"]))

    results: list[ProcessResult] = []
    run = Started(work)
    await run.outcome()
    assert results == [ProcessResult(0, "1\n1234567\n", "", is_cut=True)]
    assert [data["text"] for data in run.events("stdout")] == ["1", "12345…"]
    assert "left out after 2 lines" in run.only("log")["message"]


async def test_a_letter_in_two_chunks_is_one_letter() -> None:
    run = AgentRun()
    lines = calls._Log(run.trace).lines_of("stdout")
    for byte in "é\r\nü".encode():
        lines.add(bytes([byte]))
    lines.end()
    assert [data["text"] for data in run.events("stdout")] == ["é", "ü"]


class Witness:
    """A program that writes a file while it runs, and that a test lets go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go_on = folder / "go-on"

    def argv(self, *, ignores: bool = False, child: bool = False) -> list[str]:
        """Say "begun", then "ended" when it may go on; ``child`` adds a process in its group."""
        trap = "trap 'echo asked >> words' TERM;" if ignores else ""
        begin = "sleep 1000 & echo $! > child;" if child else ""
        loop = "while [ ! -e go-on ]; do sleep 0.01; done;"
        return [
            "sh",
            "-c",
            f"{trap}{begin} echo $$ > pid; echo begun >> words; {loop} echo ended >> words",
        ]

    @property
    def words(self) -> list[str]:
        path = self.folder / "words"
        return path.read_text().split() if path.exists() else []

    async def until(self, word: str) -> None:
        while word not in self.words:
            await asyncio.sleep(0.002)

    def pid(self, name: str = "pid") -> int:
        return int((self.folder / name).read_text())


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def until_gone(pid: int) -> None:
    while is_alive(pid):
        await asyncio.sleep(0.002)


@pytest.fixture
async def witness(tmp_path: Path) -> AsyncIterator[Witness]:
    made = Witness(tmp_path)
    yield made
    made.go_on.touch()


async def test_a_graceful_stop_waits_for_the_program(witness: Witness) -> None:
    async def work(tools: Tools) -> str:
        result = await tools.process(witness.argv(), cwd=witness.folder)
        codes.append(result.returncode)
        await tools.data_store.get("x")
        return "not stopped"

    codes: list[int] = []
    run = Started(work)
    await within(SECONDS, witness.until("begun"))
    assert await in_flight(run, "process") == ["sh"]
    run.stop()
    await turns(20)
    assert not run.ending.done()
    witness.go_on.touch()
    assert (await run.outcome()).kind == "stopped"
    assert (witness.words, codes) == (["begun", "ended"], [0])


@pytest.mark.parametrize("ignores", [False, True])
async def test_a_cut_ends_the_program_with_its_group(
    witness: Witness, ignores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "KILL_SECONDS", 0.2)

    async def work(tools: Tools) -> str:
        running = asyncio.create_task(
            tools.process(witness.argv(ignores=ignores, child=True), cwd=witness.folder)
        )
        await witness.until("begun")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return "the pids are gone" if not is_alive(witness.pid()) else "it runs on"

    run = Started(work)
    assert (await run.outcome()).result == "the pids are gone"
    await within(SECONDS, until_gone(witness.pid("child")))
    assert "ended" not in witness.words
    assert ("asked" in witness.words) == ignores
    data = run.only("process")
    assert data["outcome"] == "aborted"
    assert data["returncode"] == (-signal.SIGKILL if ignores else -signal.SIGTERM)


async def test_an_abort_ends_the_program(witness: Witness) -> None:
    """As a TaskGroup cuts its other branches after a stop with mode abort."""

    async def work(tools: Tools) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(tools.process(witness.argv(), cwd=witness.folder))
            await witness.until("begun")
            run.stop("abort")
            await tools.data_store.get("x")

    run = Started(work)
    assert (await run.outcome()).kind == "stopped"
    assert not is_alive(witness.pid())
    assert run.only("process")["outcome"] == "aborted"


async def test_a_host_that_goes_away_kills_the_program_at_once(witness: Witness) -> None:
    async def work(tools: Tools) -> None:
        await tools.process(witness.argv(ignores=True), cwd=witness.folder)

    run = Started(work)
    await within(SECONDS, witness.until("begun"))
    run.host_goes_away()
    assert (await run.outcome()).kind == "interrupted"
    await within(SECONDS, until_gone(witness.pid()))
    assert "asked" not in witness.words


async def test_what_a_program_leaves_in_its_group_ends_with_it(witness: Witness) -> None:
    async def work(tools: Tools) -> int:
        argv = ["sh", "-c", "sleep 1000 & echo $! > child"]
        return (await tools.process(argv, cwd=witness.folder)).returncode

    assert (await Started(work).outcome()).result == 0
    await within(SECONDS, until_gone(witness.pid("child")))


async def test_a_program_ends_with_its_worker(witness: Witness) -> None:
    """Killed with SIGKILL, which lets no code of the worker's run."""
    worker = f"""
import asyncio, sys
from agents.testing import running
from agents import Tools, agent

@agent("runner")
async def runner(tools: Tools) -> None:
    await tools.process({witness.argv(ignores=True, child=True)!r}, cwd={str(witness.folder)!r})

async def main() -> None:
    async with running("runner", seconds=60):
        pass

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", worker]) as process:
        try:
            await within(SECONDS, witness.until("begun"))
        finally:
            process.kill()
    await within(SECONDS, until_gone(witness.pid()))
    await within(SECONDS, until_gone(witness.pid("child")))
    assert "ended" not in witness.words
