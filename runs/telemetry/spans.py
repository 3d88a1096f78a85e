"""The spans of one attempt of a run, by OpenTelemetry's semantic conventions for generative AI.

``invoke_agent`` lasts as long as the agent's code. Below it is one span for each guarded call:
``chat`` for a model, ``execute_tool`` for the others. Each is made when its call has ended, from
the call's event, so a call itself has no work for it.

A span has no prompt, reply, key, host, user or reason: the run's id leads to its log, which has
permissions. Conventions: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agents.trace import CALL_TYPES, MAX_LABEL, Usage

from .traceparent import formatted, opentelemetry_api, span_context

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

__all__ = ["Attempt", "RunSpan"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a span says of the attempt of a run that it stands for."""

    run: uuid.UUID
    root: uuid.UUID
    parent: uuid.UUID | None
    agent: str
    depth: int
    number: int  # from 1 on


class RunSpan:
    """The span of an attempt that is being executed, and the place for those of its calls.

    Attributes:
        traceparent: for what the run starts and requests, if the code has no span of its own.
    """

    def __init__(self, api: Any, attempt: Attempt, traceparent: str | None) -> None:
        self._api = api
        self._tracer: Tracer = api.get_tracer("halting")
        above = span_context(traceparent)
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": attempt.agent,
            "halting.run.id": str(attempt.run),
            "halting.run.root_id": str(attempt.root),
            "halting.run.depth": attempt.depth,
            "halting.run.attempt": attempt.number,
        }
        if attempt.parent is not None:
            attributes["halting.run.parent_id"] = str(attempt.parent)
        self._span: Span = self._tracer.start_span(
            f"invoke_agent {attempt.agent}",
            context=self._below(api.NonRecordingSpan(above)) if above else _nothing(),
            attributes=attributes,
        )
        self._context = self._below(self._span)
        self._of_calls = {"halting.run.id": str(attempt.run)}
        self.traceparent = formatted(self._span.get_span_context())

    @classmethod
    def begin(cls, attempt: Attempt, traceparent: str | None) -> RunSpan | None:
        """Begin the span below ``traceparent``; None if the process does not trace."""
        api = opentelemetry_api()
        if api is None:
            return None
        try:
            return cls(api, attempt, traceparent)
        except Exception:  # of the site's sampler, say: the run needs no span
            logger.exception("run %s has no span", attempt.run, extra={"run": attempt.run})
            return None

    def attach(self) -> None:
        """Make it the current span of this context, which is the run's own.

        So the site's instrumentation, of httpx or psycopg say, puts its spans below it.
        """
        from opentelemetry import context

        context.attach(self._context)

    def note(self, type: str, data: Mapping[str, Any]) -> None:
        """Take an event of the run's trace, as it came in. From any thread; never raises."""
        try:
            if type == "stop_requested":
                stop = {f"halting.stop.{name}": str(data[name]) for name in ("mode", "via")}
                self._span.set_attributes(stop)
                self._span.add_event(type, stop)
            elif type == "stop_observed":  # by a tool's guard, or by should_stop(): no tool
                tool = data["tool"]
                self._span.add_event(type, {"gen_ai.tool.name": tool} if tool else {})
            elif type in CALL_TYPES and not _is_suppressed():
                self._note_call(data)
        except Exception:
            logger.exception("an event of type %s has no span", type)

    def end(
        self, status: str | None, error: Mapping[str, Any] | None, usage: Usage, at: int
    ) -> None:
        """End the span at ``at`` (``time.time_ns()``); never raises.

        ``status`` is the one that the record has now: ``queued`` if another attempt will follow,
        None if another process decides. ``usage`` is of this attempt. A stop is no error.
        Repeats do nothing.
        """
        try:
            span = self._span
            if not span.is_recording():
                return
            span.set_attributes(
                {
                    "halting.run.status": status or "unknown",
                    "gen_ai.usage.input_tokens": usage.input_tokens,
                    "gen_ai.usage.output_tokens": usage.output_tokens,
                }
            )
            if status == "error":
                self._mark_failed(span, error)
            span.end(at)
        except Exception:
            logger.exception("the span of a run can't be ended")

    def _note_call(self, data: Mapping[str, Any]) -> None:
        tool = str(data["tool"])
        if tool == "call_llm":
            name, kind, attributes = self._of_model(data)
        else:
            name, kind, attributes = self._of_tool(tool, data)
        begun_at = int(datetime.fromisoformat(data["started_at"]).timestamp() * 1e9)
        span = self._tracer.start_span(
            name,
            context=self._context_here(),
            kind=kind,
            attributes=attributes
            | self._of_calls
            | {"halting.call.id": data["call"], "halting.call.outcome": data["outcome"]},
            start_time=begun_at,
        )
        if data["outcome"] == "error":
            self._mark_failed(span, data.get("error"))
        span.end(begun_at + int(data["duration_ms"] * 1e6))

    def _of_model(self, data: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
        asked = str(data["label"])[:MAX_LABEL]
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _provider_of(data),
            "gen_ai.request.model": asked,
        }
        if "input_tokens" in data:  # there was a reply
            attributes["gen_ai.response.model"] = str(data["model"])[:MAX_LABEL]
            attributes["gen_ai.usage.input_tokens"] = data["input_tokens"]
            attributes["gen_ai.usage.output_tokens"] = data["output_tokens"]
            attributes["halting.usage.estimated"] = data["estimated"]
            if data.get("finish_reason"):
                attributes["gen_ai.response.finish_reasons"] = (str(data["finish_reason"]),)
        return f"chat {asked}", self._api.SpanKind.CLIENT, attributes

    def _of_tool(self, tool: str, data: Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.type": "datastore" if tool.startswith("data_store.") else "function",
        }
        for field, name in _FIELDS.get(tool.partition(".")[0], {}).items():
            if field in data:
                value = data[field]
                attributes[name] = value[:MAX_LABEL] if isinstance(value, str) else value
        return f"execute_tool {tool}", self._api.SpanKind.INTERNAL, attributes

    def _context_here(self) -> Context:
        """Return the calling code's context if its span is of this trace, else the run's."""
        from opentelemetry import context

        here = self._api.get_current_span().get_span_context()
        is_own = here.trace_id == self._span.get_span_context().trace_id
        return context.get_current() if is_own else self._context

    def _below(self, span: Span) -> Context:
        above: Context = self._api.set_span_in_context(span, _nothing())
        return above

    def _mark_failed(self, span: Span, error: Mapping[str, Any] | None) -> None:
        span.set_status(self._api.Status(self._api.StatusCode.ERROR))  # a message may quote data
        span.set_attribute("error.type", str((error or {}).get("type") or "_OTHER"))


#: Of the SDKs' requests to models, which have a host.
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
}


def _provider_of(data: Mapping[str, Any]) -> str:
    if "host" not in data:
        return "openai"  # the protocol of call_llm; who serves it is not known
    return _PROVIDERS.get(data["host"], "_OTHER")


#: What else the span of a tool says: by tool, the field of the call's event and the attribute.
_FIELDS = {
    "http": {"method": "http.request.method", "status": "http.response.status_code"},
    "agents": {
        "agent": "halting.child.agent",
        "run": "halting.child.run_id",
        "status": "halting.child.status",
    },
    "process": {"returncode": "process.exit.code"},
}


def _is_suppressed() -> bool:
    """Tell whether this is the request of an exporter, whose span would be exported, and so on.

    A site may guard all requests, and export each span at once (``SimpleSpanProcessor``).
    """
    from opentelemetry import context

    return bool(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))


def _nothing() -> Context:
    from opentelemetry.context import Context

    return Context()
