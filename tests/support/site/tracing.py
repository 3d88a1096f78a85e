"""Spans of a process, written to a file; and a tree of agents that sends a request."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from agents import Tools, agent


def write_spans(path: str) -> None:
    """Set this process's tracer provider: it appends a line of JSON to a file for each span."""

    def line(span: ReadableSpan) -> str:
        return span.to_json(indent=None) + "\n"  # one write(2), as it is flushed at once

    exporter = ConsoleSpanExporter(out=open(path, "a"), formatter=line)  # noqa: SIM115
    provider = TracerProvider(resource=Resource.create({"process.pid": os.getpid()}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


@agent("site-tracing", on_worker_loss="requeue", max_attempts=3)
async def tracing(tools: Tools, url: str) -> int:
    """Start a sub-agent, which any worker may take."""
    status: int = await (await tools.agents.start("site-visiting", {"url": url}))
    return status


@agent("site-visiting")
async def visiting(tools: Tools, url: str) -> int:
    return (await tools.http.get(url)).status_code
