"""The tests of frameworks in an environment with openai 2: ``requirements-frameworks-openai2.txt``.

See the conftest above. Here nothing gets an argument that guards it: ``guard_everything()`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

HERE = ["agents", "aiohttp", "google.genai", "litellm", "llama_index.llms.openai"]


def _is_missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:
        return True


MISSING = [name for name in HERE if _is_missing(name)]

collect_ignore_glob = ["*"] if MISSING else []

if not MISSING:
    from agents import guard_everything
    from tests.support.agent_run import AgentRun
    from tests.support.traffic_server import TrafficServer

    @pytest.fixture(scope="session", autouse=True)
    def everything_is_guarded() -> Iterator[None]:
        undo = guard_everything()
        yield
        undo()

    @pytest.fixture
    def traffic() -> Iterator[TrafficServer]:
        with TrafficServer() as server:
            yield server
            server.release()

    @pytest.fixture
    def run() -> AgentRun:
        return AgentRun()
