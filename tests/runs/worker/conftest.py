"""Fixtures that the tests of workers share."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agents import Tools, agent


@pytest.fixture
def endless() -> None:
    @agent("endless", on_worker_loss="fail")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def no_lost_exceptions(caplog: pytest.LogCaptureFixture) -> Any:
    """Fail on exceptions that were never retrieved, which asyncio only logs."""
    yield
    for when in ("setup", "call"):
        for record in caplog.get_records(when):
            message = record.getMessage()
            assert "never retrieved" not in message
            assert record.name != "asyncio" or record.levelno < logging.ERROR, message
