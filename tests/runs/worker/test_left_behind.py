"""A run's status is terminal only after all of its code has left. Files are the witnesses."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from agents import AgentStopped, SyncTools, Tools, agent, cleanup
from agents.tools.confined.calls import call_confined
from runs.models import DataStoreEntry, RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support import confined_functions as functions
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


class Witness:
    """Code of a run writes here when it begins and when it leaves, with the instant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.may_leave = folder / "may-leave"
        self._words = folder / "words"

    def watch(self) -> None:
        """Be in a thread until the test lets it go."""
        self.say("begun")
        while not self.may_leave.exists():
            time.sleep(0.002)
        self.say("left")

    async def watch_stubbornly(self) -> None:
        """Be a task that swallows its cancellation."""
        self.say("begun")
        while not self.may_leave.exists():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.002)
        self.say("left")

    @property
    def argv(self) -> list[str]:
        """Be a process."""
        say = "echo {} $(date +%s.%N) >> words"
        wait = "while [ ! -e may-leave ]; do sleep 0.01; done"
        return ["sh", "-c", f"{say.format('begun')}; {wait}; {say.format('left')}"]

    def say(self, word: str) -> None:
        with self._words.open("a") as file:
            file.write(f"{word} {time.time():.6f}\n")

    def said(self) -> dict[str, datetime]:
        lines = self._words.read_text().splitlines() if self._words.exists() else []
        pairs = [line.split() for line in lines]
        return {word: datetime.fromtimestamp(float(at), UTC) for word, at in pairs}

    def until(self, word: str) -> None:
        eventually(lambda: word in self.said(), f"the witness says {word}")


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path)
    yield made
    made.may_leave.touch()


def in_flight(run: RunRecord) -> list[tuple[str, str]]:
    calls = RunRecord.objects.values_list("in_flight", flat=True).get(pk=run.pk)
    return [(call["tool"], call["label"]) for call in calls]


@pytest.mark.parametrize("how", ["stop", "return", "error"])
@pytest.mark.parametrize(
    "what", ["to_thread", "pool", "sync_to_async", "task", "process", "shell", "generator"]
)
def test_no_status_is_terminal_before_the_witness_has_left(
    what: str,
    how: str,
    witness: Witness,
    worker: Worker,
    start: Start,
    stop: Callable[..., Any],
    log: Journal,
) -> None:
    async def generator() -> Any:
        try:
            yield 1
        finally:
            await witness.watch_stubbornly()

    @agent("careless")
    async def careless(tools: Tools, what: str, how: str) -> None:
        loop, kept = asyncio.get_running_loop(), list[Any]()
        match what:
            case "to_thread":
                kept.append(asyncio.create_task(asyncio.to_thread(witness.watch)))
            case "pool":
                pool = ThreadPoolExecutor(1)
                kept.append(loop.run_in_executor(pool, witness.watch))
                pool.shutdown(wait=False)
            case "sync_to_async":
                kept.append(asyncio.create_task(sync_to_async(witness.watch)()))
            case "task":
                kept.append(asyncio.create_task(witness.watch_stubbornly()))
            case "process":
                kept.append(await asyncio.create_subprocess_exec(*witness.argv, cwd=witness.folder))
            case "shell":
                command = witness.argv[2]
                kept.append(await asyncio.create_subprocess_shell(command, cwd=witness.folder))
            case "generator":
                kept.append(generator())
                await anext(kept[0])
                kept.append(asyncio.create_task(asyncio.sleep(0)))
                witness.say("begun")
        while "begun" not in witness.said():
            await asyncio.sleep(0.002)
        tools.log("at work")
        if how == "error":
            raise ValueError("no")
        while how == "stop":
            await tools.data_store.get("x")

    run = start("careless", what=what, how=how)
    log.until_at_work(1)
    if how == "stop":
        stop(run)
        log.until_event(run, "stop_observed")
    kind = {"task": "task", "generator": "task", "process": "process", "shell": "process"}.get(
        what, "thread"
    )
    eventually(lambda: [tool for tool, _ in in_flight(run)] == [kind], "it is in flight")
    (label,) = [label for _, label in in_flight(run)]
    assert "/" not in label
    assert RunRecord.objects.get(pk=run.pk).status == Status.RUNNING
    assert "left" not in witness.said()
    witness.may_leave.touch()
    record = log.over(run)
    assert record.status == {"stop": "stopped", "return": "success", "error": "error"}[how]
    assert record.finished_at is not None
    assert witness.said()["left"] <= record.finished_at
    assert record.in_flight == []
    assert (record.unwatched_threads, record.unwatched_processes) == (0, 0)
    assert_consistent(record)


@pytest.mark.parametrize("stops", [True, False])
def test_a_def_agent_is_over_when_its_thread_has_left(
    stops: bool,
    witness: Witness,
    worker: Worker,
    start: Start,
    stop: Callable[..., Any],
    log: Journal,
) -> None:
    @agent("computing")
    def computing(tools: SyncTools) -> str:
        witness.watch()
        tools.data_store.get("x")
        return "done"

    run = start("computing")
    witness.until("begun")
    if stops:
        stop(run)
        eventually(
            lambda: [tool for tool, _ in in_flight(run)] == ["thread"], "the thread is shown"
        )
        assert in_flight(run)[0][1].startswith("computing (test_left_behind.py:")
    else:
        assert in_flight(run) == []
    witness.may_leave.touch()
    record = log.over(run)
    assert record.status == ("stopped" if stops else "success")
    assert record.finished_at is not None
    assert witness.said()["left"] <= record.finished_at


def test_a_generators_finally_block_saves_before_the_run_is_stopped(
    worker: Worker, start: Start, stop: Callable[..., Any], log: Journal
) -> None:
    async def saving(tools: Tools) -> Any:
        try:
            yield 1
        finally:
            async with cleanup():
                await tools.data_store.set("saved", True)

    @agent("saver")
    async def saver(tools: Tools) -> None:
        numbers = saving(tools)
        async for _ in numbers:
            tools.log("at work")
            while True:
                try:
                    await tools.data_store.get("x")
                except AgentStopped:
                    break
            break
        await tools.data_store.get("x")

    run = start("saver")
    log.until_at_work(1)
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert DataStoreEntry.objects.filter(key="saved").exists()


def test_what_is_not_watched_is_counted(worker: Worker, start: Start, log: Journal) -> None:
    @agent("starter")
    async def starter(tools: Tools) -> None:
        for _ in range(2):
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
        subprocess.run([sys.executable, "-c", ""], check=True)
        subprocess.run(["/bin/true"], check=True, close_fds=False)  # by posix_spawn
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
        if (child := os.fork()) == 0:
            os._exit(0)
        # What forks has threads, so the child may never come to its first line.
        end = time.monotonic() + 5
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)

    @agent("watched")
    async def watched(tools: Tools) -> None:
        await asyncio.to_thread(lambda: None)
        await sync_to_async(lambda: None)()
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, lambda: None)
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        await tools.process(["true"])
        assert await call_confined(functions.shout, b"a", "b") == "A b"
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    @agent("watched-def")
    def watched_def(tools: SyncTools) -> None:
        tools.data_store.get("x")

    @agent("starter-def")
    def starter_def(tools: SyncTools) -> None:
        threading.Thread(target=lambda: None).start()

    counts = {}
    for name in ("starter", "watched", "watched-def", "starter-def"):
        record = log.over(start(name))
        assert record.status == Status.SUCCESS, record.error
        counts[name] = (record.unwatched_threads, record.unwatched_processes)
    assert counts == {
        "starter": (2, 4),
        "watched": (0, 0),
        "watched-def": (0, 0),
        "starter-def": (1, 0),
    }


def test_a_shutdown_names_what_it_leaves(
    witness: Witness, hire: Callable[..., Worker], start: Start, log: Journal
) -> None:
    worker = hire()

    @agent("careless", on_worker_loss="fail")
    async def careless(tools: Tools) -> None:
        await asyncio.to_thread(witness.watch)

    run = start("careless")
    witness.until("begun")
    worker.stop_threads()
    record = log.over(run)
    assert record.error["code"] == "worker_shutdown"
    messages = [event.data["message"] for event in log.of(run, "log")]
    assert any("left a thread running: Witness.watch (" in message for message in messages)


class TestNeighbours:
    """Eight runs of one owner keep their threads busy; another owner's runs don't notice."""

    @pytest.fixture
    def busy(
        self, options: Callable[..., None], hire: Callable[..., Worker], start: Start
    ) -> Iterator[Callable[[], None]]:
        gate = Gate()
        options(MAX_THREADS=8)
        hire()

        @agent("busy")
        async def busy(tools: Tools) -> None:
            await asyncio.gather(*[asyncio.to_thread(gate.wait_here) for _ in range(8)])

        def fill() -> None:
            for _ in range(8):
                start("busy")
            gate.until_arrived(8)

        yield fill
        gate.open()

    def test_its_job_in_a_thread_begins_at_once(
        self, busy: Callable[[], None], start: Start, log: Journal, bob: User
    ) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> str:
            return await asyncio.to_thread(lambda: "done")

        busy()
        assert log.over(start("quick", owner=bob)).result == "done"

    def test_it_looks_names_up(
        self, busy: Callable[[], None], start: Start, log: Journal, bob: User
    ) -> None:
        @agent("looking-up")
        async def looking_up(tools: Tools) -> int:
            return len(await asyncio.get_running_loop().getaddrinfo("localhost", 80))

        busy()
        assert log.over(start("looking-up")).result
        assert log.over(start("looking-up", owner=bob)).result

    def test_it_is_stopped(
        self,
        busy: Callable[[], None],
        start: Start,
        stop: Callable[..., Any],
        log: Journal,
        bob: User,
    ) -> None:
        @agent("asking")
        async def asking(tools: Tools) -> None:
            tools.log("at work")
            while True:
                await asyncio.to_thread(lambda: None)
                await tools.data_store.get("x")

        busy()
        run = start("asking", owner=bob)
        log.until_at_work(1)
        stop(run, by=bob)
        assert log.over(run).status == Status.STOPPED

    def test_the_stand_in_and_the_database_answer(
        self, busy: Callable[[], None], start: Start, log: Journal, bob: User
    ) -> None:
        @agent("asking")
        async def asking(tools: Tools) -> str:
            await tools.data_store.set("a", 1)
            text = "A long document. " * 4_000
            return (await tools.call_llm([{"role": "user", "content": text}])).text

        busy()
        assert log.over(start("asking", owner=bob)).result


def test_a_model_is_reached_by_its_name_while_an_owner_keeps_its_threads_busy(
    llm_server: Any,
    options: Callable[..., None],
    hire: Callable[..., Worker],
    start: Start,
    log: Journal,
    bob: User,
) -> None:
    gate = Gate()
    by_name = llm_server.base_url.replace("127.0.0.1", "localhost")
    options(MAX_THREADS=2, LLM={"BASE_URL": by_name, "API_KEY": "a-key-for-tests", "MODEL": "m"})
    hire()

    @agent("busy")
    async def busy(tools: Tools) -> None:
        await asyncio.gather(*[asyncio.to_thread(gate.wait_here) for _ in range(8)])

    @agent("asking")
    async def asking(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "Hello"}])).text

    for _ in range(8):
        start("busy")
    gate.until_arrived(2)
    assert log.over(start("asking", owner=bob)).status == Status.SUCCESS
    assert log.over(start("asking")).status == Status.SUCCESS
    gate.open()


def test_a_run_that_cancels_all_tasks_ends_no_other_run(
    worker: Worker, start: Start, log: Journal, bob: User
) -> None:
    gate = Gate()

    @agent("patient")
    async def patient(tools: Tools) -> str:
        await gate.wait()
        await tools.data_store.get("x")
        return "done"

    @agent("destroyer")
    async def destroyer(tools: Tools) -> None:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(0)

    others = [start("patient", owner=bob) for _ in range(5)]
    gate.until_arrived(5)
    culprit = log.over(start("destroyer"))
    gate.open()
    assert [log.over(other).result for other in others] == ["done"] * 5
    messages = [event.data.get("message", "") for event in log.of(culprit, "log")]
    assert sum("not its own" in message for message in messages) == 1
    assert all("not its own" not in str(e.data) for other in others for e in log.of(other))


def test_a_run_has_the_threads_that_the_settings_give_it_and_the_rest_waits_visibly(
    options: Callable[..., None], hire: Callable[..., Worker], start: Start, log: Journal
) -> None:
    gate = Gate()
    options(MAX_THREADS_PER_RUN=2)
    hire()

    @agent("busy")
    async def busy(tools: Tools) -> None:
        await asyncio.gather(*[asyncio.to_thread(gate.wait_here) for _ in range(3)])

    run = start("busy")
    gate.until_arrived(2)
    eventually(lambda: len(in_flight(run)) == 3, "all three are shown")
    waits = [label.endswith("waits for a thread") for _, label in in_flight(run)]
    assert sorted(waits) == [False, False, True]
    gate.open()
    assert log.over(run).status == Status.SUCCESS
