from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from agents import Tools, agent
from runs.delivery import ends, notify
from runs.web.feed import hub
from tests.support.running import Gate

T = TypeVar("T")

Do = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(autouse=True)
def nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have had this process drained."""
    monkeypatch.setattr(ends, "_leaving", threading.Event())


@pytest.fixture
def do(transactional_db: None) -> Do[Any]:
    """Run a coroutine as a command does, on a loop that ends with it, and see what that leaves."""

    async def closing(work: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wait_for(work, 40)
        finally:
            await sync_to_async(connections.close_all)()

    def do(work: Coroutine[Any, Any, T]) -> T:
        listeners = list(notify._listeners)
        try:
            return asyncio.run(closing(work))
        finally:
            assert notify._listeners == listeners, "a hub listens on"
            assert all(one.is_closed for one in hub._hubs.values()), "a hub is kept"

    return do


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def echo() -> None:
    @agent("echo")
    async def echo(tools: Tools, text: str = "") -> str:
        return text


@pytest.fixture
def waiting(gate: Gate) -> None:
    """An agent that says something, waits at the gate, and says more."""

    @agent("waiting")
    async def waiting(tools: Tools) -> str:
        tools.log("before")
        await gate.wait()
        tools.log("after")
        return "done"
