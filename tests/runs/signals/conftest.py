from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from agents import Tools, agent
from runs import signals
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.signals import receivers
from tests.support.journal import eventually

SIGNALS = ("run_started", "run_finished", "stop_requested")


class Heard:
    """Receives all signals of this process, and keeps what came with each."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []
        self.had_transactions = False

    def take(self, name: str, **given: Any) -> None:
        self.had_transactions |= connection.in_atomic_block
        self.all.append((name, given))

    def of(self, run: RunRecord, name: str = "") -> list[dict[str, Any]]:
        drain()
        return [given for n, given in self.all if given["run"].pk == run.pk and name in ("", n)]

    def names(self, run: RunRecord) -> list[str]:
        drain()
        return [name for name, given in self.all if given["run"].pk == run.pk]


def drain() -> None:
    """Wait until all receivers were called."""
    receivers._thread.submit(bool).result(20)


def leave() -> None:
    """Wait until no run is left in this process, and all receivers were called."""
    eventually(lambda: not local_runs.all_runs(), "the worker has no run")
    drain()


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    connected = []
    for name in SIGNALS:

        def receive(sender: Any, signal: Any, name: str = name, **given: Any) -> None:
            assert sender is RunRecord
            heard.take(name, **given)

        getattr(signals, name).connect(receive)
        connected.append((getattr(signals, name), receive))
    yield heard
    for signal, receive in connected:
        signal.disconnect(receive)
    drain()


@pytest.fixture
def echo() -> None:
    @agent("echo")
    async def echo(tools: Tools, text: str = "") -> str:
        return text


@pytest.fixture
def forget_local_runs() -> Iterator[None]:
    yield
    local_runs._runs.clear()
