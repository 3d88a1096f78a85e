"""A request that came whole is finished, whatever becomes of the client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from project.patience import Patience

_WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
_PART = {"type": "http.request", "body": b"{", "more_body": True}
_GONE = {"type": "http.disconnect"}


async def _hear(method: str, messages: Iterable[dict[str, Any]]) -> list[str]:
    """Return what the application hears until it hears no more."""
    left = list(messages)
    heard: list[str] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while left:
            async with asyncio.timeout(0.05):
                heard.append((await receive())["type"])

    try:
        await Patience(application)({"type": "http", "method": method}, receive, None)
    except TimeoutError:
        heard.append("nothing")
    return heard


async def test_a_post_that_came_whole_does_not_hear_that_the_client_left() -> None:
    assert await _hear("POST", [_PART, _WHOLE, _GONE]) == [
        "http.request",
        "http.request",
        "nothing",
    ]


async def test_a_post_that_broke_off_hears_it() -> None:
    assert await _hear("POST", [_PART, _GONE]) == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_look_at_something_hears_it(method: str) -> None:
    assert await _hear(method, [_WHOLE, _GONE]) == ["http.request", "http.disconnect"]
