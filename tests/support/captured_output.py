"""Helpers for the tests in tests/agents/output."""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agents import output
from tests.support.agent_run import AgentRun

SECONDS = 20.0


SECRET = "correct-horse-battery-staple"


logger = logging.getLogger("an.agent")


def captured(test: Callable[..., Any]) -> Callable[..., Any]:
    """Capture output within a test. A fixture can't: pytest replaces the streams after it."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        streams = fixtures.get("outside") or {"stdout": io.StringIO(), "stderr": io.StringIO()}
        with pytest.MonkeyPatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            output.install()
            try:
                work = test(**fixtures)
                if inspect.isawaitable(work):
                    asyncio.run(work)
            finally:
                output.uninstall()

    return run


def printed(run: AgentRun, stream: str = "stdout") -> list[str]:
    """Return the lines of a run's log, after ending the unfinished ones."""
    output.flush(run.trace)
    texts = [data["text"] for data in run.events("stdout") if data["stream"] == stream]
    return [line for text in texts for line in text.split("\n")]


class Hostile:
    """Can't be printed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error

    __repr__ = __str__
