"""What a test asks of the spans that were exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runs.models import RunRecord

from .journal import eventually

__all__ = ["Spans", "attributes_of", "is_below"]


class Spans:
    """The spans that have ended, of this process."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def until(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """Wait for spans of this name; they end a moment after their run's record."""
        eventually(lambda: len(self.named(name)) >= count, f"{count} spans {name}")
        return self.named(name)

    def of_run(self, run: RunRecord) -> ReadableSpan:
        """Wait for the span of a run's only attempt."""
        (span,) = [
            span
            for span in self.until(f"invoke_agent {run.agent}")
            if attributes_of(span)["halting.run.id"] == str(run.pk)
        ]
        return span


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def is_below(span: ReadableSpan, above: ReadableSpan) -> bool:
    """Tell whether a span is a child of another one, in the same trace."""
    assert span.context is not None
    assert above.context is not None
    parent = span.parent
    return (
        parent is not None
        and parent.span_id == above.context.span_id
        and span.context.trace_id == above.context.trace_id
    )
