"""Agents that can be watched and stopped: a plain asyncio library.

What an agent's author needs is here; ``docs/writing-agents.md`` shows it in use.
"""

from .cancellation import check_should_stop, cleanup, should_stop
from .exceptions import (
    AgentError,
    AgentStopped,
    CallTimedOut,
    SubAgentFailed,
    SubAgentStopped,
)
from .registry import agent
from .tools import (
    AgentHandle,
    LLMReply,
    ProcessResult,
    Remaining,
    SyncAgentHandle,
    SyncTools,
    Tools,
)
from .tools.everything.guarding import guard_everything
from .tools.http.client import guarded_transport

__all__ = [
    "AgentError",
    "AgentHandle",
    "AgentStopped",
    "CallTimedOut",
    "LLMReply",
    "ProcessResult",
    "Remaining",
    "SubAgentFailed",
    "SubAgentStopped",
    "SyncAgentHandle",
    "SyncTools",
    "Tools",
    "agent",
    "check_should_stop",
    "cleanup",
    "guard_everything",
    "guarded_transport",
    "should_stop",
]
