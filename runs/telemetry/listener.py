"""What a process notes of a run's events: its metrics, and its spans if it traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.trace import CALL_TYPES
from runs.process import metrics

from .spans import RunSpan

__all__ = ["Listener"]


class Listener:
    """Listens to the trace of one run. From any thread."""

    __slots__ = ("_agent", "_span")

    def __init__(self, agent: str, span: RunSpan | None) -> None:
        self._agent = agent
        self._span = span

    def __call__(self, type: str, data: Mapping[str, Any]) -> None:
        if type in CALL_TYPES:
            metrics.count_call(self._agent, data)
        if self._span is not None:
            self._span.note(type, data)
