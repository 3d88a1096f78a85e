"""Requests that agents make with clients of their own: guarded, or counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from agents import Tools, agent, guard_everything
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.llm_server import LLMServer
from tests.support.running import Start


@pytest.fixture
def server() -> Iterator[LLMServer]:
    with LLMServer() as server:
        yield server


@pytest.fixture
def asking() -> None:
    @agent("asking")
    async def asking(tools: Tools, url: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).status_code


@pytest.mark.parametrize("is_on", [True, False])
def test_the_setting_guards_plain_clients(
    options: Callable[..., None],
    hire: Callable[..., Worker],
    start: Start,
    log: Journal,
    server: LLMServer,
    asking: None,
    is_on: bool,
) -> None:
    options(GUARD_EVERYTHING=is_on)
    hire()
    run = start("asking", url=server.url)
    record = log.over(run)
    guard_everything()()
    assert (record.status, record.result) == (Status.SUCCESS, 200)
    assert [event.data["label"] for event in log.of(run, "http")] == is_on * ["GET 127.0.0.1"]
