"""A request that arrived whole is finished, also when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from project.patience import Patience

_WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
_PART = {"type": "http.request", "body": b"{", "more_body": True}
_GONE = {"type": "http.disconnect"}


async def _receive(method: str, messages: Iterable[dict[str, Any]]) -> list[str]:
    """Return the types of messages that the application receives, until there are no more."""
    left = list(messages)
    received: list[str] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while left:
            async with asyncio.timeout(0.05):
                received.append((await receive())["type"])

    try:
        await Patience(application)({"type": "http", "method": method}, receive, None)
    except TimeoutError:
        received.append("nothing")
    return received


async def test_a_post_that_arrived_whole_is_not_told_that_the_client_left() -> None:
    assert await _receive("POST", [_PART, _WHOLE, _GONE]) == [
        "http.request",
        "http.request",
        "nothing",
    ]


async def test_a_post_that_broke_off_is_told() -> None:
    assert await _receive("POST", [_PART, _GONE]) == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_request_that_only_reads_is_told(method: str) -> None:
    assert await _receive(method, [_WHOLE, _GONE]) == ["http.request", "http.disconnect"]
