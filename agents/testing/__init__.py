"""What a person needs to test an agent: no Django, no network, no key.

Agents run here as they do in production, through the same runtime, guards and tools; only what the
tools reach is in memory. ``docs/writing-agents.md`` shows it in use. Nothing here knows
records, workers or doors.
"""

from .in_memory import MemoryDataStore
from .observed_run import Result, Run, run, running
from .scripted_model import ScriptedModel

__all__ = ["MemoryDataStore", "Result", "Run", "ScriptedModel", "run", "running"]
