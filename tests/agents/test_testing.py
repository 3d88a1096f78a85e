"""The kit that people test their agents with: what it shows is what happens."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator

import httpx
import pytest

from agents import (
    AgentError,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
    cleanup,
    registry,
    should_stop,
)
from agents.exceptions import AgentNotFound, InvalidInput
from agents.testing import MemoryDataStore, ScriptedModel, run, running


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


def ask(text: str = "Hello") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class TestEndings:
    def test_a_return_is_a_success(self) -> None:
        @agent("double")
        async def double(tools: Tools, number: int = 2) -> int:
            return 2 * number

        result = run(double, {"number": 21})

        assert (result.status, result.result, result.error) == ("success", 42, None)
        assert [event.type for event in result.events] == ["agent_start", "agent_end"]
        assert [event.seq for event in result.events] == [1, 2]
        assert result.events[-1].data["status"] == "success"

    def test_an_exception_is_an_error(self) -> None:
        @agent("fail")
        async def fail(tools: Tools) -> None:
            raise AgentError("no luck")

        result = run(fail)

        assert result.status == "error"
        assert result.error == {"code": "agent_error", "type": "AgentError", "message": "no luck"}
        assert [event.type for event in result.events] == ["agent_start", "error", "agent_end"]

    async def test_a_stop_lets_the_call_in_flight_finish_and_refuses_the_next(self) -> None:
        answer = asyncio.Event()

        async def reply(messages: object) -> str:
            await answer.wait()
            return "First."

        @agent("talk")
        async def talk(tools: Tools) -> str:
            first = await tools.call_llm(ask())
            tools.log(first.text)
            return (await tools.call_llm(ask())).text

        model = ScriptedModel(reply)
        async with running(talk, model=model) as run:
            [call] = await run.until_in_flight("call_llm")
            run.stop(reason="enough")
            answer.set()
            result = await run.result()

        assert call["label"] == "scripted"
        assert (result.status, result.result, result.partial_result) == ("stopped", None, None)
        assert [event.type for event in result.events] == [
            "agent_start",
            "stop_requested",
            "llm_call",
            "log",
            "stop_observed",
            "agent_end",
        ]
        assert result.events[1].data == {"mode": "graceful", "reason": "enough"}
        assert len(model.calls) == result.usage.llm_calls == 1
        assert result.calls_started_after_stop == 0

    async def test_only_an_escalation_is_a_second_request(self) -> None:
        @agent("busy")
        async def busy(tools: Tools) -> None:
            while True:
                await tools.call_llm(ask())

        async with running(busy) as run:
            await run.until_in_flight("call_llm")
            run.stop(reason="first")
            run.stop(reason="again")
            run.stop(mode="abort", reason="harder")
            run.stop()
            result = await run.result()

        requests = [event.data for event in result.events if event.type == "stop_requested"]
        assert requests == [
            {"mode": "graceful", "reason": "first"},
            {"mode": "abort", "reason": "harder"},
        ]

    async def test_what_a_stopped_agent_returns_is_its_partial_result(self) -> None:
        @agent("count")
        async def count(tools: Tools) -> int:
            number = 0
            while not should_stop():
                number += 1
                tools.progress(number, None)
                await asyncio.sleep(0)
            return number

        async with running(count) as run:
            await run.until("progress", 5)
            run.stop()
            result = await run.result()

        assert (result.status, result.result) == ("stopped", None)
        assert result.partial_result >= 5

    async def test_what_goes_wrong_after_a_stop_is_a_cleanup_error(self) -> None:
        @agent("clumsy")
        async def clumsy(tools: Tools) -> None:
            try:
                while True:
                    await tools.call_llm(ask())
            finally:
                raise ValueError("clumsy")

        async with running(clumsy) as run:
            await run.until_in_flight("call_llm")
            run.stop()
            result = await run.result()

        assert result.status == "stopped"
        assert result.cleanup_error is not None
        assert result.cleanup_error["message"] == "clumsy"

    async def test_the_agent_begins_at_the_first_wait_of_the_block(self) -> None:
        started = False

        @agent("eager")
        async def eager(tools: Tools) -> None:
            nonlocal started
            started = True

        async with running(eager) as run:
            assert not started
            await run.until("agent_start")
            assert started
        async with running(eager) as run:
            started = False
            run.stop()
        assert not started
        assert (await run.result()).status == "stopped"

    async def test_a_stop_that_comes_too_late_changes_nothing(self) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> str:
            return "done"

        async with running(quick) as run:
            await run.result()
            run.stop()
            run.stop(reason="again")

        assert (await run.result()).status == "success"

    async def test_an_agent_that_saves_in_cleanup_is_seen_to_save(self) -> None:
        @agent("careful")
        async def careful(tools: Tools) -> None:
            try:
                while True:
                    await tools.call_llm(ask())
            finally:
                async with cleanup():
                    await tools.data_store.set("saved", True)

        store = MemoryDataStore()
        async with running(careful, data_store=store) as run:
            await run.until_in_flight("call_llm")
            run.stop()

        assert store.entries == {"default": {"saved": True}}

    def test_a_def_agent_runs_in_a_thread_with_the_same_tools(self) -> None:
        @agent("plain")
        def plain(tools: SyncTools) -> list[str]:
            tools.data_store.set("key", [1])
            reply = tools.call_llm(ask())
            answer = tools.http.get("https://example.org/")
            return [reply.text, answer.text, *tools.data_store.list_keys()]

        result = run(
            plain,
            model=ScriptedModel("Said."),
            http=lambda request: httpx.Response(200, text=f"Fetched {request.url.host}."),
        )

        assert result.result == ["Said.", "Fetched example.org.", "key"]

    def test_what_an_agent_prints_and_logs_is_in_its_events(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        @agent("chatty")
        async def chatty(tools: Tools) -> None:
            print("printed")
            tools.log("logged", level="warning")
            logging.getLogger("chatty").warning("logged by Python")

        before = sys.stdout
        result = run(chatty)

        told = [event.data for event in result.events if event.source == "agent"]
        assert {"stream": "stdout", "text": "printed"} in told
        assert {"level": "warning", "message": "logged"} in told
        assert {"level": "warning", "logger": "chatty", "message": "logged by Python"} in told
        assert sys.stdout is before
        assert capsys.readouterr().out == ""


class TestWhatCannotRun:
    def test_input_that_does_not_fit_is_refused(self) -> None:
        @agent("double")
        async def double(tools: Tools, number: int) -> int:
            return 2 * number

        with pytest.raises(InvalidInput) as caught:
            run(double, {"number": "two"})
        assert list(caught.value.fields) == ["input.number"]

    def test_an_agent_is_found_by_its_name(self) -> None:
        @agent("named")
        async def named(tools: Tools) -> str:
            return "found"

        assert run("named").result == "found"
        with pytest.raises(AgentNotFound):
            run("nameless")

    def test_a_function_that_is_no_agent_is_refused(self) -> None:
        async def stranger(tools: Tools) -> None: ...

        with pytest.raises(AgentNotFound, match="not an agent"):
            run(stranger)

    def test_an_agent_whose_signature_cannot_be_described_says_why(self) -> None:
        @agent("odd")
        async def odd(tools: Tools, *numbers: int) -> None: ...

        with pytest.raises(AgentNotFound, match=r"\*numbers"):
            run(odd)

    async def test_abandoning_is_refused(self) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> None: ...

        async with running(quick) as run:
            with pytest.raises(ValueError, match="outlive"):
                run.stop(mode="abandon")

    async def test_a_sub_agent_that_is_abandoned_is_over_for_its_caller(self) -> None:
        ended = asyncio.Event()

        @agent("endless")
        async def endless(tools: Tools) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        @agent("caller")
        async def caller(tools: Tools) -> str:
            handle = await tools.agents.start("endless")
            await handle.stop(mode="abandon")
            try:
                await handle
            except SubAgentStopped:
                return "gave up"
            return "waited"

        async with running(caller) as run:
            assert (await run.result()).result == "gave up"
            assert not ended.is_set()
        assert ended.is_set(), "the test's end has cut it off"


class TestWaiting:
    async def test_a_wait_for_what_never_comes_fails_at_the_end_of_the_run(self) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> None:
            tools.log("here")

        async with running(quick) as run:
            with pytest.raises(AssertionError, match=r"ended without: http no\. 1(?s:.)*here"):
                await run.until("http")
            with pytest.raises(AssertionError, match="ended without: 1 x call_llm in flight"):
                await run.until_in_flight("call_llm")
            with pytest.raises(AssertionError, match=r"ended without: call of agent other no\. 1"):
                await run.child("other")

    async def test_a_run_that_never_ends_fails_its_test_and_is_cut_off(self) -> None:
        ended = asyncio.Event()

        @agent("endless")
        async def endless(tools: Tools) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        with pytest.raises(AssertionError, match=r"no end of endless within 0\.05 s"):
            async with running(endless, seconds=0.05):
                pass
        assert ended.is_set()

    async def test_a_test_that_fails_cuts_the_whole_tree_off(self) -> None:
        async def reply(messages: object) -> str:
            await asyncio.Event().wait()
            return ""

        @agent("child")
        async def child(tools: Tools) -> str:
            return (await tools.call_llm(ask())).text

        @agent("parent")
        async def parent(tools: Tools) -> str:
            return str(await tools.agents.call("child"))

        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block fails, as tests do
            async with running(parent, model=ScriptedModel(reply)) as run:
                called = await run.child("child")
                await called.until_in_flight("call_llm")
                raise ZeroDivisionError

        for ended in (await run.result(), await called.result()):
            assert ended.status == "error"
            assert ended.error is not None
            assert ended.error["code"] == "worker_shutdown"

    async def test_a_test_that_fails_at_once_leaves_nothing_behind(self) -> None:
        @agent("unborn")
        async def unborn(tools: Tools) -> None: ...

        with pytest.raises(ZeroDivisionError):
            async with running(unborn) as run:
                raise ZeroDivisionError
        assert run.events == []

    async def test_events_that_have_been_are_found_as_well(self) -> None:
        @agent("quick")
        async def quick(tools: Tools) -> None:
            tools.log("one")
            tools.log("two")

        async with running(quick) as run:
            await run.result()
            assert (await run.until("log", 2)).data["message"] == "two"


class TestSubAgents:
    async def test_called_agents_are_runs_of_their_own(self) -> None:
        @agent("child")
        async def child(tools: Tools, name: str) -> str:
            await tools.data_store.set(name, 1)
            return name

        @agent("parent")
        async def parent(tools: Tools) -> list[str]:
            return [await tools.agents.call("child", {"name": name}) for name in ("a", "b")]

        store = MemoryDataStore()
        async with running(parent, data_store=store) as run:
            result = await run.result()

        assert result.result == ["a", "b"]
        assert [child.agent for child in run.children] == ["child", "child"]
        assert {event.depth for event in run.children[0].events} == {1}
        calls = [event.data for event in result.events if event.type == "agent_call"]
        assert [call["run"] for call in calls] == [child.id for child in run.children]
        assert store.entries == {"default": {"a": 1, "b": 1}}

    async def test_their_endings_reach_the_caller(self) -> None:
        @agent("child")
        async def child(tools: Tools, fails: bool) -> str:
            if fails:
                raise ValueError("no luck")
            return (await tools.call_llm(ask())).text

        @agent("parent")
        async def parent(tools: Tools) -> list[str]:
            ends = []
            for fails in (True, False):
                try:
                    await tools.agents.call("child", {"fails": fails})
                except (SubAgentFailed, SubAgentStopped) as error:
                    ends.append(error.code)
            return ends

        answer = asyncio.Event()

        async def reply(messages: object) -> str:
            await answer.wait()
            return "Late."

        async with running(parent, model=ScriptedModel(reply)) as run:
            second = await run.child("child", 2)
            await second.until_in_flight("call_llm")
            second.stop()
            answer.set()
            result = await run.result()

        # Its call in flight was the last thing that it did, so it had done its work.
        assert (await second.result()).status == "success"
        assert result.result == ["sub_agent_failed"]

    async def test_agents_without_end_are_refused_at_some_depth(self) -> None:
        @agent("mirror")
        async def mirror(tools: Tools) -> None:
            await tools.agents.call("mirror")

        async with running(mirror) as run:
            result = await run.result()

        assert result.error is not None
        assert "deep" in result.error["message"]
        assert len(run._tree()) == 32
