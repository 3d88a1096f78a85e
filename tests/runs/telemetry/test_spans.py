"""The spans of runs and of their calls."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from agents import SyncTools, Tools, agent
from agents.cancellation import StopMode
from agents.guard import current_guard
from runs.delivery import local_runs
from runs.status import Status
from runs.telemetry import spans as spans_module
from tests.support.journal import Journal, eventually
from tests.support.llm_server import Answer, LLMServer
from tests.support.running import Gate, Start
from tests.support.spans import Spans, attributes_of, is_below

SECRET = "sk-live-0123456789abcdef"
ASK = [{"role": "user", "content": f"a prompt of alice's, with {SECRET}"}]


def test_a_run_and_its_calls_are_spans_of_one_trace(
    spans: Spans, llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("inner")
    async def inner(tools: Tools) -> int:
        return await tools.data_store.set("a key of alice's", 1) or 7

    @agent("outer")
    async def outer(tools: Tools) -> str:
        await tools.agents.call("inner")
        handle = await tools.agents.start("inner")
        await handle
        await tools.process(["true"])
        return (await tools.call_llm(ASK, temperature=0)).text

    hire()
    record = log.over(start("outer"))
    assert record.status == Status.SUCCESS, record.error
    root = spans.of_run(record)
    inners = spans.until("invoke_agent inner", 2)
    calls = [
        spans.named(name)
        for name in ("execute_tool agents.call", "execute_tool agents.start", "chat small")
    ]
    assert [len(found) for found in calls] == [1, 1, 1]
    below = [*inners, *(found[0] for found in calls), *spans.named("execute_tool process")]
    assert len(below) == 6
    for span in below:
        assert is_below(span, root), span.name
    stored = spans.named("execute_tool data_store.set")
    assert len(stored) == 2
    assert all(any(is_below(span, above) for above in inners) for span in stored)
    assert {trace_id(span) for span in spans.all()} == {trace_id(root)}
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


def test_spans_follow_the_conventions_and_have_no_content(
    spans: Spans, llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("talker")
    async def talker(tools: Tools) -> str:
        await tools.data_store.set("a key of alice's", ASK)
        return (await tools.call_llm(ASK)).text

    hire()
    record = log.over(start("talker"))
    of_run = spans.of_run(record)
    assert of_run.kind is SpanKind.INTERNAL
    assert attributes_of(of_run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "talker",
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "halting.run.id": str(record.pk),
        "halting.run.root_id": str(record.pk),
        "halting.run.depth": 0,
        "halting.run.attempt": 1,
        "halting.run.status": "success",
    }
    (chat,) = spans.named("chat small")
    assert chat.kind is SpanKind.CLIENT
    event = log.of(record, "llm_call")[0].data
    assert attributes_of(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": event["model"],
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": event["input_tokens"],
        "gen_ai.usage.output_tokens": event["output_tokens"],
        "halting.usage.estimated": False,
        "halting.run.id": str(record.pk),
        "halting.call.id": event["call"],
        "halting.call.outcome": "ok",
    }
    assert chat.start_time is not None
    assert chat.end_time is not None
    took = (chat.end_time - chat.start_time) / 1e6
    assert took == pytest.approx(event["duration_ms"], abs=0.01)
    (stored,) = spans.named("execute_tool data_store.set")
    assert attributes_of(stored)["gen_ai.tool.type"] == "datastore"
    everything = "".join(span.to_json() for span in spans.all())
    for word in ("alice", SECRET, "prompt", "harbour", "127.0.0.1"):
        assert word not in everything


def test_an_error_marks_the_span_without_its_message(
    spans: Spans, llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("failing")
    async def failing(tools: Tools) -> None:
        try:
            await tools.data_store.set("", "alice")
        finally:
            raise KeyError("alice")

    hire()
    span = spans.of_run(log.over(start("failing")))
    assert span.status.status_code is StatusCode.ERROR
    assert not span.status.description
    assert attributes_of(span)["error.type"] == "KeyError"
    assert attributes_of(span)["halting.run.status"] == "error"
    assert "alice" not in span.to_json()


def test_a_call_that_fails_marks_its_own_span(
    spans: Spans, llm_server: LLMServer, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("asking")
    async def asking(tools: Tools) -> str:
        try:
            await tools.call_llm(ASK, model="broken")
        except Exception:
            return "went on"
        return ""

    llm_server.answer = Answer(status=400, body=b'{"error": {"message": "alice"}}')
    hire()
    span = spans.of_run(log.over(start("asking")))
    assert span.status.status_code is StatusCode.UNSET
    (chat,) = spans.named("chat broken")
    assert chat.status.status_code is StatusCode.ERROR
    assert attributes_of(chat)["error.type"] == "LLMError"
    assert "gen_ai.response.model" not in attributes_of(chat)


def test_a_stop_is_no_error_and_is_told(
    spans: Spans, hire: Callable[..., Any], start: Start, stop: Any, log: Journal
) -> None:
    gate = Gate()

    @agent("held")
    async def held(tools: Tools) -> None:
        await gate.wait()
        await tools.data_store.get("x")

    hire()
    run = start("held")
    gate.until_arrived()
    stop(run, reason="alice wants it")
    gate.open()
    span = spans.of_run(log.over(run))
    assert span.status.status_code is StatusCode.UNSET
    said = attributes_of(span)
    assert said["halting.run.status"] == "stopped"
    assert (said["halting.stop.mode"], said["halting.stop.via"]) == ("graceful", "api")
    told = [(event.name, dict(event.attributes or {})) for event in span.events]
    assert told == [
        ("stop_requested", {"halting.stop.mode": "graceful", "halting.stop.via": "api"}),
        ("stop_observed", {"gen_ai.tool.name": "data_store.get"}),
    ]
    assert "alice" not in span.to_json()
    assert not spans.named("execute_tool data_store.get"), "it was refused"


def test_an_aborted_call_is_a_span_with_its_outcome(
    spans: Spans,
    llm_server: LLMServer,
    hire: Callable[..., Any],
    start: Start,
    stop: Any,
    log: Journal,
) -> None:
    @agent("waiting")
    async def waiting(tools: Tools) -> None:
        await tools.call_llm(ASK)

    llm_server.hold()
    hire()
    run = start("waiting")
    llm_server.wait_for_requests(1)
    stop(run, mode=StopMode.ABORT)
    span = spans.of_run(log.over(run))
    llm_server.release()
    assert attributes_of(span)["halting.stop.mode"] == "abort"
    (chat,) = spans.named("chat small")
    assert is_below(chat, span)
    assert attributes_of(chat)["halting.call.outcome"] == "aborted"
    assert chat.status.status_code is StatusCode.UNSET


def test_the_span_of_an_abandoned_run_ends_with_its_record(
    spans: Spans, hire: Callable[..., Any], start: Start, stop: Any, log: Journal
) -> None:
    gate = Gate()

    @agent("stuck")
    def stuck(tools: SyncTools) -> None:
        gate.wait_here()

    hire()
    run = start("stuck")
    gate.until_arrived()
    stop(run, mode=StopMode.ABANDON)
    span = spans.of_run(log.over(run))
    said = attributes_of(span)
    assert (said["halting.run.status"], said["halting.stop.mode"]) == ("stopped", "abandon")
    assert span.status.status_code is StatusCode.UNSET
    gate.open()
    eventually(lambda: not local_runs.all_runs(), "the code has left")
    assert len(spans.named("invoke_agent stuck")) == 1


def test_each_attempt_has_a_span(
    spans: Spans, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    gate, attempts_begun = Gate(), []

    @agent("again", on_worker_loss="requeue", max_attempts=3)
    async def again(tools: Tools) -> str:
        attempts_begun.append(1)
        if len(attempts_begun) == 2:
            return "second"
        await gate.wait()
        await asyncio.sleep(60)
        return "first"

    first = hire()
    with trace.get_tracer("site").start_as_current_span("request") as request:
        run = start("again")
    gate.until_arrived()
    first.stop_threads()
    hire()
    record = log.over(run)
    assert (record.attempt, record.result) == (2, "second")
    attempts = spans.until("invoke_agent again", 2)
    told = [attributes_of(span) for span in attempts]
    assert [said["halting.run.attempt"] for said in told] == [1, 2]
    assert [said["halting.run.status"] for said in told] == ["queued", "success"]
    parents = [span.parent and span.parent.span_id for span in attempts]
    assert parents == [request.get_span_context().span_id] * 2
    assert {span.status.status_code for span in attempts} == {StatusCode.UNSET}


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_run_is_the_current_span_of_its_code(
    kind: str, spans: Spans, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    tracer = trace.get_tracer("site")

    if kind == "async":

        @agent("planning")
        async def planning(tools: Tools) -> None:
            with tracer.start_as_current_span("plan"):
                await tools.data_store.get("x")
                await asyncio.gather(*[tools.data_store.list_keys() for _ in range(2)])
                await tools.agents.call("child")
            await asyncio.to_thread(tracer.start_span("in a thread").end)

    else:

        @agent("planning")
        def planning_in_thread(tools: SyncTools) -> None:
            with tracer.start_as_current_span("plan"):
                tools.data_store.get("x")
                for _ in range(2):
                    tools.data_store.list_keys()
                tools.agents.call("child")
            tracer.start_span("in a thread").end()

    @agent("child")
    async def child(tools: Tools) -> None: ...

    hire()
    span = spans.of_run(log.over(start("planning")))
    (plan,), (in_thread,) = spans.named("plan"), spans.named("in a thread")
    assert is_below(plan, span)
    assert is_below(in_thread, span)
    for name in ("execute_tool data_store.get", "execute_tool agents.call", "invoke_agent child"):
        assert is_below(spans.named(name)[0], plan), name
    assert all(is_below(found, plan) for found in spans.named("execute_tool data_store.list_keys"))


def test_a_call_without_a_context_is_below_its_run(
    spans: Spans, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    @agent("bare")
    async def bare(tools: Tools) -> None:
        loop = asyncio.get_running_loop()
        empty = contextvars.Context()
        await loop.create_task(tools.data_store.get("x"), context=empty)
        await loop.create_task(tools.agents.call("child"), context=empty)

    @agent("child")
    async def child(tools: Tools) -> None: ...

    hire()
    span = spans.of_run(log.over(start("bare")))
    for name in ("execute_tool data_store.get", "execute_tool agents.call", "invoke_agent child"):
        assert is_below(spans.named(name)[0], span), name


def test_runs_of_one_loop_keep_their_traces_apart(
    spans: Spans, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    gate = Gate()

    @agent("apart")
    async def apart(tools: Tools) -> None:
        await gate.wait()
        await tools.data_store.get("x")

    hire()
    runs = [start("apart") for _ in range(5)]
    gate.until_arrived(5)
    gate.open()
    log.until_over(*runs)
    roots = spans.until("invoke_agent apart", 5)
    assert len({trace_id(span) for span in roots}) == 5
    assert all(span.parent is None for span in roots)
    for call in spans.named("execute_tool data_store.get"):
        assert sum(is_below(call, root) for root in roots) == 1


def test_a_tracer_that_raises_fails_no_run(
    spans: Spans,
    hire: Callable[..., Any],
    start: Start,
    log: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @agent("steady")
    async def steady(tools: Tools) -> str:
        await tools.data_store.set("x", 1)
        return "done"

    def fail(*_: Any) -> None:
        raise RuntimeError("a processor of the site's")

    monkeypatch.setattr(spans_module.RunSpan, "_note_call", fail)
    hire()
    assert log.over(start("steady")).result == "done"
    monkeypatch.setattr(spans_module.RunSpan, "__init__", fail)
    assert log.over(start("steady")).result == "done"


def test_the_requests_of_an_exporter_have_no_spans(
    spans: Spans, hire: Callable[..., Any], start: Start, log: Journal
) -> None:
    class Sending(SpanExporter):
        """As one whose HTTP library is guarded."""

        def export(self, spans: Any) -> SpanExportResult:
            guard = current_guard()
            if guard is not None:
                with guard.call("http", "POST collector"):
                    pass
            return SpanExportResult.SUCCESS

    provider = cast(TracerProvider, trace.get_tracer_provider())
    provider.add_span_processor(SimpleSpanProcessor(Sending()))

    @agent("exported")
    async def exported(tools: Tools) -> None:
        await tools.data_store.get("x")

    hire()
    record = log.over(start("exported"))
    assert len(log.of(record, "http")) == 1
    spans.of_run(record)
    assert {span.name for span in spans.all()} == {
        "invoke_agent exported",
        "execute_tool data_store.get",
    }


@pytest.mark.parametrize(
    ("host", "provider"), [("api.anthropic.com", "anthropic"), ("llm.example", "_OTHER")]
)
def test_the_request_of_an_sdk_names_its_provider(
    host: str,
    provider: str,
    spans: Spans,
    hire: Callable[..., Any],
    start: Start,
    log: Journal,
) -> None:
    @agent("sdk")
    async def sdk(tools: Tools) -> None:
        guard = current_guard()
        assert guard is not None
        with guard.call("call_llm", "claude", model="claude", host=host):
            pass

    hire()
    log.over(start("sdk"))
    (chat,) = spans.until("chat claude")
    assert attributes_of(chat)["gen_ai.provider.name"] == provider
    assert host not in chat.to_json()


def trace_id(span: Any) -> int:
    return int(span.context.trace_id)
