"""A stop while a model answers: the answer completes, and no new call starts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agents import SyncTools, Tools, agent
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.llm_server import TEXT, LLMServer
from tests.support.running import Start

QUESTION = [{"role": "user", "content": "What became of the ship?"}]


@pytest.mark.parametrize(
    ("stream", "held_at"),
    [(False, "start"), (True, "start"), (True, "middle")],
    ids=["plain", "streamed", "streamed-and-half-way"],
)
def test_the_call_completes_and_the_next_tool_is_never_called(
    llm_server: LLMServer,
    worker: Any,
    start: Start,
    stop: Any,
    log: Journal,
    stream: bool,
    held_at: str,
) -> None:
    lines: list[str] = []

    @agent("asker")
    async def asker(tools: Tools, stream: bool) -> str:
        reply = await tools.call_llm(QUESTION, stream=stream)
        lines.append(reply.text)
        await tools.data_store.set("answer", reply.text)
        lines.append("never")
        return reply.text

    llm_server.hold(held_at)
    run = start("asker", stream=stream)
    llm_server.wait_for_requests(1)
    answer = stop(run)
    assert answer.outcome == "accepted"
    assert answer.run.shown_status == "stopping"
    log.until_event(run, "stop_requested")
    run.refresh_from_db()
    assert [call["tool"] for call in run.in_flight] == ["call_llm"]
    assert llm_server.completed_count == 0
    llm_server.release()

    record = log.over(run)
    assert record.status == Status.STOPPED
    assert lines == [TEXT], "the reply reached the agent, and no call followed"
    llm_server.wait(lambda: llm_server.completed_count == 1, "the reply to be sent to its end")
    assert (llm_server.request_count, llm_server.aborted_count) == (1, 0)
    (call,) = log.of(run, "llm_call")
    assert call.data["outcome"] == "ok"
    assert call.data["text"] == TEXT
    assert (call.data["input_tokens"], call.data["output_tokens"]) == (21, 13)
    assert (record.llm_calls, record.input_tokens, record.output_tokens) == (1, 21, 13)
    assert not record.usage_estimated
    observed = log.of(run, "stop_observed")
    assert [event.data["tool"] for event in observed] == ["data_store.set"]
    assert not log.of(run, "data_store")
    assert_consistent(record)


def test_a_def_agent_gets_its_reply_too(
    llm_server: LLMServer, worker: Any, start: Start, stop: Any, log: Journal
) -> None:
    lines: list[str] = []

    @agent("sync-asker")
    def sync_asker(tools: SyncTools) -> str:
        lines.append(tools.call_llm(QUESTION).text)
        tools.data_store.set("answer", "never")
        return "never"

    llm_server.hold("middle")
    run = start("sync-asker")
    llm_server.wait_for_requests(1)
    stop(run)
    llm_server.release()
    assert log.over(run).status == Status.STOPPED
    assert lines == [TEXT]
    assert llm_server.aborted_count == 0
    assert log.of(run, "llm_call")[0].data["text"] == TEXT
    assert_consistent(run)


def test_concurrent_calls_all_finish_and_are_counted(
    llm_server: LLMServer, worker: Any, start: Start, stop: Any, log: Journal
) -> None:
    """In a TaskGroup the first branch to observe the stop cancels the others: they finish first."""

    @agent("many-at-once")
    async def many_at_once(tools: Tools) -> None:
        async def branch() -> None:
            await tools.call_llm(QUESTION)
            await tools.call_llm(QUESTION)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(branch())

    llm_server.hold("middle")
    run = start("many-at-once")
    llm_server.wait_for_requests(5)
    stop(run)
    llm_server.release()
    record = log.over(run)
    assert record.status == Status.STOPPED
    llm_server.wait(lambda: llm_server.completed_count == 5, "the replies to be sent to their end")
    assert (llm_server.request_count, llm_server.aborted_count) == (5, 0)
    calls = log.of(run, "llm_call")
    assert [call.data["outcome"] for call in calls] == ["ok"] * 5
    assert record.output_tokens == 5 * 13
    assert record.error is None
    assert record.stop_cleanup_error is None
    assert_consistent(run)


def test_another_run_continues_unchanged(
    llm_server: LLMServer, worker: Any, start: Start, stop: Any, log: Journal
) -> None:
    @agent("two-questions")
    async def two_questions(tools: Tools) -> int:
        first = await tools.call_llm(QUESTION)
        second = await tools.call_llm([*QUESTION, {"role": "assistant", "content": first.text}])
        return second.usage.output_tokens

    llm_server.hold("middle")
    stopped, untouched = start("two-questions"), start("two-questions")
    llm_server.wait_for_requests(2)
    stop(stopped)
    llm_server.release()
    ends = log.until_over(stopped, untouched)
    assert [end.status for end in ends] == [Status.STOPPED, Status.SUCCESS]
    assert ends[1].result == 13
    assert llm_server.request_count == 3
    assert_consistent(stopped)
    assert_consistent(untouched)
