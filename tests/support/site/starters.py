"""Agents that start others, possibly on another worker."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import SubAgentFailed, SubAgentStopped, Tools, agent


@agent("site-set")
async def set_key(tools: Tools, key: str) -> None:
    """Set a key of the data store, for which other agents wait."""
    await tools.data_store.set(key, True)


@agent("site-starter")
async def starter(tools: Tools, agents: list[str], key: str = "", leave: bool = False) -> list[str]:
    """Wait for ``key``, start these agents, and return how each has ended."""
    return await _start(tools, agents, key, leave)


@agent("site-starter-again", on_worker_loss="requeue", max_attempts=3)
async def starter_again(tools: Tools, agents: list[str], key: str = "") -> list[str]:
    """As ``site-starter``; after its worker was lost, it runs again and starts nothing."""
    marker = f"{key} again"
    if await tools.data_store.get(marker):
        return ["second attempt"]
    while not await tools.data_store.get(key):
        await asyncio.sleep(0.02)
    await tools.data_store.set(marker, True)
    return await _start(tools, agents, key, leave=False)


async def _start(tools: Tools, agents: list[str], key: str, leave: bool) -> list[str]:
    while key and not await tools.data_store.get(key):
        await asyncio.sleep(0.02)
    inputs: dict[str, dict[str, Any]] = {
        "site-starter": {"agents": ["site-loop", "site-loop"]},
        "site-again": {"key": f"{key} child"},
    }
    handles = [await tools.agents.start(name, inputs.get(name, {})) for name in agents]
    tools.log("started")
    if leave:
        for handle in handles:
            handle.leave()
        return ["left"]
    ends = []
    for end in await asyncio.gather(*handles, return_exceptions=True):
        match end:
            case SubAgentFailed():
                ends.append(f"failed: {end.error['code']}")
            case SubAgentStopped():
                ends.append("stopped")
            case BaseException():
                raise end
            case _:
                ends.append(str(end))
    return ends
