"""Admission."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from agents import AgentStopped, check_should_stop, cleanup, should_stop
from agents.cancellation import (
    CancelToken,
    current_token,
    is_in_cleanup,
)
from tests.support.parallel import SECONDS, in_parallel


def test_no_call_is_admitted_after_the_acknowledgement() -> None:
    admitted = 0
    for _ in range(200):
        root = CancelToken()
        child = CancelToken(root)
        going = threading.Event()

        def call(child: CancelToken = child, going: threading.Event = going) -> list[float]:
            instants: list[float] = []
            try:
                while True:
                    instants.append(child.admit("x"))
                    going.set()
            except AgentStopped:
                return instants

        def stop(root: CancelToken = root, going: threading.Event = going) -> list[float]:
            going.wait(SECONDS)
            root.request()
            return []

        *instants, _ = in_parallel(call, call, call, stop)
        assert child.acknowledged_monotonic is not None
        late = [at for some in instants for at in some if at > child.acknowledged_monotonic]
        assert late == []
        admitted += sum(map(len, instants))
    assert admitted >= 200


def test_a_stop_that_comes_while_a_call_is_being_admitted_is_acknowledged_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = CancelToken()
    stopping = threading.Thread(target=token.request)

    def clock() -> float:
        if threading.current_thread() is threading.main_thread():  # the decision has been taken
            stopping.start()
            stopping.join(0.1)  # it can't get through before the admission is over
        return time.monotonic()

    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=clock))
    admitted_at = token.admit()
    stopping.join(SECONDS)
    assert token.acknowledged_monotonic is not None
    assert admitted_at <= token.acknowledged_monotonic


def test_a_refusal_says_the_reason_and_an_admission_the_instant() -> None:
    token = CancelToken()
    before = time.monotonic()
    assert before <= token.admit() <= time.monotonic()
    token.request(reason="over budget")
    with pytest.raises(AgentStopped, match="over budget"):
        token.admit()
    nameless = CancelToken()
    nameless.request()
    with pytest.raises(AgentStopped, match="a stop was requested"):
        nameless.admit()


def test_outside_any_run_nothing_is_ever_stopped() -> None:
    def look() -> tuple[Any, ...]:
        check_should_stop()
        with cleanup():
            pass
        return current_token(), should_stop(), is_in_cleanup()

    assert contextvars.Context().run(look) == (None, False, False)


def test_asking_counts_as_having_observed_only_if_the_answer_is_yes(token: CancelToken) -> None:
    assert should_stop() is False
    assert token.observed_at is None
    token.request()
    assert should_stop() is True
    assert token.observed_at is not None


def test_the_check_raises_again_and_again(token: CancelToken) -> None:
    check_should_stop()
    token.request(reason="enough")
    for _ in range(3):
        with pytest.raises(AgentStopped, match="enough"):
            check_should_stop()
    assert token.observed_at is not None


async def test_tasks_and_threads_inherit_the_token_and_siblings_do_not(token: CancelToken) -> None:
    token.request()

    async def ask() -> bool:
        return should_stop()

    assert await asyncio.create_task(ask()) is True
    assert await asyncio.to_thread(should_stop) is True
    assert await asyncio.create_task(ask(), context=contextvars.Context()) is False
