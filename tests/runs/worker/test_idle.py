"""A run that shows no sign of life for too long is stopped."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from agents import Tools, agent, should_stop
from runs.actions import limit_stops
from runs.delivery import local_runs
from runs.status import Status
from tests.support.journal import Journal, eventually
from tests.support.limits import SHORT, ended_by
from tests.support.running import Gate, Start


class TestIdle:
    def test_stops_a_run_without_a_sign_of_life(
        self, worker: Any, start: Start, log: Journal
    ) -> None:
        @agent("silent", idle_seconds=SHORT)
        async def silent(tools: Tools) -> str:
            while not should_stop():
                await asyncio.sleep(0.01)
            return "so far"

        record = ended_by(log.over(start("silent")), "idle")
        assert record.stop_requested_at >= record.started_at + timedelta(seconds=SHORT)
        assert record.partial_result == "so far"

    def test_is_reached_in_a_call_that_brings_nothing(
        self, hire: Any, start: Start, log: Journal, llm_server: Any
    ) -> None:
        llm_server.hold()

        @agent("calling", idle_seconds=SHORT)
        async def calling(tools: Tools) -> str:
            reply = await tools.call_llm([{"role": "user", "content": "Hello"}])
            await tools.data_store.set("x", reply.text)
            return "?"

        hire()
        run = start("calling")
        log.until_event(run, "stop_requested")
        llm_server.release()
        ended_by(log.over(run), "idle")
        assert log.of(run, "llm_call")[0].data["outcome"] == "ok"

    @pytest.mark.parametrize("sign", ["call", "log", "progress"])
    def test_is_not_reached_with_signs_of_life(
        self, worker: Any, start: Start, log: Journal, sign: str
    ) -> None:
        @agent("alive", idle_seconds=SHORT)
        async def alive(tools: Tools) -> str:
            end = time.monotonic() + 3 * SHORT
            while time.monotonic() < end:
                await asyncio.sleep(SHORT / 10)
                match sign:
                    case "call":
                        await tools.data_store.get("x")
                    case "log":
                        tools.log("alive")
                    case _:
                        tools.progress(1, 2)
            return "done"

        record = log.over(start("alive"))
        assert (record.status, record.stop_requested) == (Status.SUCCESS, False)

    @pytest.mark.parametrize("how", ["call", "start"])
    def test_a_living_sub_agent_is_a_sign_of_life(
        self, worker: Any, start: Start, log: Journal, how: str
    ) -> None:
        @agent("caller", idle_seconds=SHORT)
        async def caller(tools: Tools) -> str:
            if how == "call":
                await tools.agents.call("below")
            else:
                await (await tools.agents.start("below"))
            return "done"

        @agent("below")
        async def below(tools: Tools) -> None:
            end = time.monotonic() + 3 * SHORT
            while time.monotonic() < end:
                await asyncio.sleep(SHORT / 10)
                tools.log("alive")

        record = log.over(start("caller"))
        assert (record.status, record.stop_requested) == (Status.SUCCESS, False)

    def test_a_silent_sub_agent_is_none(self, worker: Any, start: Start, log: Journal) -> None:
        @agent("caller", idle_seconds=SHORT)
        async def caller(tools: Tools) -> None:
            await tools.agents.call("below")

        @agent("below")
        async def below(tools: Tools) -> None:
            while not should_stop():
                await asyncio.sleep(0.01)

        ended_by(log.over(start("caller")), "idle")

    def test_a_sign_that_comes_while_the_stop_is_written_counts(
        self, worker: Any, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locked = limit_stops._locked
        asked: list[int] = []
        gate = Gate()

        def slow(runs: Any, **options: Any) -> Any:
            asked.append(1)
            if len(asked) == 1:
                trace = local_runs.trace_of(run.pk)
                before = trace.alive_at
                gate.open()
                eventually(lambda: trace.alive_at > before, "a sign of life")
            return locked(runs, **options)

        monkeypatch.setattr(limit_stops, "_locked", slow)

        @agent("waking", idle_seconds=SHORT)
        async def waking(tools: Tools) -> None:
            await gate.wait()
            tools.progress(1, 1)
            while not should_stop():
                await asyncio.sleep(0.01)

        run = start("waking")
        record = ended_by(log.over(run), "idle")
        [progress] = log.of(run, "progress")
        assert record.stop_requested_at >= progress.ts + timedelta(seconds=SHORT)
