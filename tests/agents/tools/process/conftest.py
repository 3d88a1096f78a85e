"""The loop as a host makes it."""

from __future__ import annotations

from tests.agents.runtime.conftest import _agent_loop, _registry  # noqa: F401 - fixtures
