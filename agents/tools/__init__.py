"""The tools of agents. A guard checks each of their calls."""

from __future__ import annotations

from .agents.handle import AgentHandle
from .llm.client import LLMReply
from .notes import Remaining
from .process.calls import ProcessResult
from .sync_toolbox import SyncAgentHandle, SyncTools
from .toolbox import Tools

__all__ = [
    "AgentHandle",
    "LLMReply",
    "ProcessResult",
    "Remaining",
    "SyncAgentHandle",
    "SyncTools",
    "Tools",
]
