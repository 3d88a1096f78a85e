"""The values of labels, bounded: Prometheus keeps a series for each combination, for weeks.

No label has an owner, a host or a key.
"""

from __future__ import annotations

import threading

from agents import registry
from agents.exceptions import AgentError

__all__ = ["OTHER", "OUTCOMES", "TOOLS", "agent", "model", "tool"]

OTHER = "other"
OUTCOMES = ("ok", "error", "stopped", "aborted")
#: The methods of the data store count as one tool.
TOOLS = (
    *("call_llm", "data_store", "http", "process"),
    *("agents.call", "agents.start", "agents.wait"),
)
MOST_MODELS = 50
MAX_LENGTH = 100  # characters of a model's name

_models: set[str] = set()
_lock = threading.Lock()


def agent(name: str) -> str:
    """Return an agent that this process knows, else "other": a run may have outlived its agent."""
    try:
        return registry.get(name).name
    except AgentError:
        return OTHER


def tool(name: str) -> str:
    kind = "data_store" if name.startswith("data_store.") else name
    return kind if kind in TOOLS else OTHER


def model(name: str, *, has_replied: bool) -> str:
    """Return one of the first 50 models that have replied, else "other".

    An agent may take the name from its input, so a name alone takes no place.
    """
    if name in _models:
        return name
    if not has_replied or len(name) > MAX_LENGTH:
        return OTHER
    with _lock:
        if len(_models) < MOST_MODELS:
            _models.add(name)
    return name if name in _models else OTHER
