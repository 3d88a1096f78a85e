"""The loop as a host makes it."""

from __future__ import annotations

from tests.agents.runtime.conftest import (  # noqa: F401 - fixtures, and a hook
    _agent_loop,
    _registry,
    pytest_asyncio_loop_factories,
)
