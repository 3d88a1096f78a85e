"""Helpers for the tests in tests/agents/tools/llm/calls."""

from __future__ import annotations

import asyncio
from typing import Any

from agents.tools.llm.client import LLMReply, Model, call_llm
from tests.support.agent_run import AgentRun

KEY = "Zq81xLm3-PvT7kk2"  # of no known form, so only its exact value identifies it


ASK = [{"role": "user", "content": "Where did the ship go? Keep the word xylophone to yourself."}]


def ask(run: AgentRun, model: Model, **options: Any) -> asyncio.Task[LLMReply]:
    return run.task(call_llm(run.guard, model, ASK, **options))


def stream_of(*deltas: dict[str, Any], reason: str | None = "stop", **more: Any) -> list[Any]:
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta}], **more} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return chunks


def busy_counts(model: Model) -> list[int]:
    transports: Any = model._own_transports
    return [pool.busy_count for pool in transports._http2_async._pools]
