"""Helpers for the tests of requests."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2

from agents.tools.http.client import (
    guarded_transport,
)
from agents.values.addresses import AllowList, Reach

LIBRARIES = [httpx, httpx2]

#: Where the tests' own servers are; without it ``tools.http`` would refuse them.
LOOPBACK = Reach(AllowList(["127.0.0.1"]))


ASK: Any = [{"role": "user", "content": "Where did the ship go?"}]


def async_client(library: Any) -> Any:
    """Make an agent's own client, within a run or outside one."""
    return library.AsyncClient(
        transport=guarded_transport(
            library.AsyncHTTPTransport(limits=library.Limits(max_connections=10))
        ),
        timeout=5,
    )


def sync_client(library: Any) -> Any:
    return library.Client(transport=guarded_transport(library.HTTPTransport()), timeout=5)


async def get(client: Any, url: str) -> Any:
    return await client.get(url)
