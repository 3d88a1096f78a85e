"""The tests of frameworks in an environment with openai 2: ``requirements-frameworks-openai2.txt``.

See the conftest above.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest

# Read when litellm is imported, which else asks for a list on the web.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

HERE = ["aiohttp", "google-genai", "litellm", "llama-index-llms-openai", "openai-agents"]


def _is_missing(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return True
    return False


MISSING = [package for package in HERE if _is_missing(package)]

collect_ignore_glob = ["*"] if MISSING else []

if not MISSING:
    from agents import guard_everything, registry
    from tests.support.agent_run import AgentRun
    from tests.support.traffic_server import TrafficServer

    from ..model_server import ModelServer

    #: LlamaIndex and litellm use what pydantic has deprecated, or warns of.
    WARNINGS = ("ignore::DeprecationWarning", "ignore::UserWarning")

    @pytest.fixture
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

    @pytest.fixture
    def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
        """Give the model's server, at the address that the SDKs read from the environment."""
        with ModelServer() as server, registry.isolated(empty=True):
            for name, value in {
                "OPENAI_BASE_URL": server.base_url,
                "OPENAI_API_BASE": server.base_url,
                "ANTHROPIC_API_BASE": server.url,
                "GEMINI_API_BASE": server.url,
                "GOOGLE_GEMINI_BASE_URL": server.url,
            }.items():
                monkeypatch.setenv(name, value)
            for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
                monkeypatch.setenv(name, "a-key-of-the-tests")
            yield server
            server.release()
