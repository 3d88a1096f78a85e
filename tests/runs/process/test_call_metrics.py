"""What is counted of calls, models and tokens, and how many series that makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents import Tools, agent
from agents.trace import current_trace
from runs.process import labels, metrics
from tests.support.journal import Journal
from tests.support.llm_server import Answer, LLMServer
from tests.support.running import Start

ASK = [{"role": "user", "content": "What follows?"}]


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the models of other tests."""
    monkeypatch.setattr(labels, "_models", set())


def count(name: str, **given: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, given) or 0.0


def test_calls_are_counted_by_agent_tool_and_outcome(
    hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("counted")
    async def counted(tools: Tools) -> None:
        await tools.data_store.set("x", 1)
        await tools.data_store.get("x")
        try:
            await tools.http.get("http://127.0.0.1:9")
        except Exception:
            await tools.agents.call("below")

    @agent("below")
    async def below(tools: Tools) -> None: ...

    hire()
    assert log.over(start("counted")).error is None
    calls = {
        (tool, outcome): value
        for tool, outcome in itertools.product(labels.TOOLS, labels.OUTCOMES)
        if (value := count("halting_calls_total", agent="counted", tool=tool, outcome=outcome))
    }
    assert calls == {("data_store", "ok"): 2, ("http", "error"): 1, ("agents.call", "ok"): 1}
    assert count("halting_call_seconds_count", agent="counted", tool="data_store") == 2
    assert 0 < count("halting_call_seconds_sum", agent="counted", tool="data_store") < 40


def test_tokens_and_durations_are_counted_by_model(
    llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("talking")
    async def talking(tools: Tools) -> None:
        await tools.call_llm(ASK)
        await tools.call_llm(ASK, model="large")

    hire()
    before = count("halting_model_calls_total", model="small", outcome="ok")
    record = log.over(start("talking"))
    assert record.input_tokens
    for direction, whole in (("input", record.input_tokens), ("output", record.output_tokens)):
        given = {"agent": "talking", "direction": direction}
        each = [count("halting_tokens_total", model=model, **given) for model in ("small", "large")]
        assert sum(each) == whole
        assert all(each)
    assert count("halting_model_calls_total", model="small", outcome="ok") == before + 1
    assert count("halting_model_seconds_count", model="large") == 1


def test_calls_are_counted_though_the_log_is_full(
    hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("busy")
    async def busy(tools: Tools) -> None:
        trace = current_trace()
        assert trace is not None
        trace.max_events = 2
        for _ in range(5):
            await tools.data_store.get("x")

    hire()
    record = log.over(start("busy"))
    assert len(log.of(record, "data_store")) < 5
    assert count("halting_calls_total", agent="busy", tool="data_store", outcome="ok") == 5


class TestLabels:
    def test_only_models_that_have_replied_take_one_of_fifty_places(self) -> None:
        assert labels.model("asked", has_replied=False) == "other"
        assert labels.model("x" * 101, has_replied=True) == "other"
        names = [f"m{number}" for number in range(60)]
        given = [labels.model(name, has_replied=True) for name in names]
        assert given == names[:50] + ["other"] * 10
        assert labels.model("m7", has_replied=False) == "m7"

    def test_an_agent_that_is_not_registered_is_other(self) -> None:
        assert labels.agent("gone") == "other"
        before = count("halting_runs_finished_total", agent="other", status="error")
        metrics.count_end("gone", "error")
        assert count("halting_runs_finished_total", agent="other", status="error") == before + 1
        assert not count("halting_runs_finished_total", agent="gone", status="error")

    def test_the_methods_of_the_data_store_are_one_tool(self) -> None:
        assert labels.tool("data_store.get_many") == "data_store"
        assert labels.tool("agents.call") == "agents.call"
        assert labels.tool("anything") == "other"


def test_a_model_that_refuses_is_counted_without_a_label_of_its_own(
    llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("guessing")
    async def guessing(tools: Tools, model: str) -> None:
        await tools.call_llm(ASK, model=model)

    llm_server.answer = Answer(status=404, body=b'{"error": {"message": "no such model"}}')
    hire()
    before = count("halting_model_calls_total", model="other", outcome="error")
    log.over(start("guessing", model="alice's guess"))
    assert count("halting_model_calls_total", model="other", outcome="error") == before + 1
    assert not list(series_with("alice"))


def test_no_label_has_an_owner_a_host_or_a_key(
    hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("discreet")
    async def discreet(tools: Tools) -> None:
        await tools.data_store.set("secret-place", 1)
        await tools.http.get("http://secret-place.invalid")

    hire()
    log.over(start("discreet"))
    assert not list(series_with("secret-place"))
    assert not list(series_with("alice"))


def series_with(text: str) -> Iterator[str]:
    """Yield the label values of this process's series that have ``text`` in them."""
    for metric in metrics.REGISTRY.collect():
        for sample in metric.samples:
            yield from (value for value in sample.labels.values() if text in value)
