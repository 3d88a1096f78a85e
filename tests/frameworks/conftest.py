"""The tests of frameworks, which have requirements and environments of their own.

``make test-frameworks`` runs them: those here with the newest openai, and those in ``openai2`` with
openai 2. In the environment of ``make test`` the frameworks are missing: then nothing here is
collected, and the end of the output says so. That is no skip, so that REQUIRE_ALL=1 doesn't fail:
CI runs these tests in a job of their own.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

FRAMEWORKS = [
    "anthropic",
    "langchain",
    "langchain_anthropic",
    "langchain_openai",
    "langgraph",
    "mcp",
    "openai",
    "pydantic_ai",
    "smolagents",
]
MISSING = [name for name in FRAMEWORKS if find_spec(name) is None]

# Not a pattern: that would hold for the folder openai2 as well.
collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py")] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING and find_spec("litellm") is None:
        terminalreporter.section("tests/frameworks NOT TESTED", red=True, bold=True)
        names = ", ".join(MISSING)
        terminalreporter.line(
            f"`make test-frameworks` has an environment with {names}", yellow=True
        )


if not MISSING:
    from agents import registry

    from .model_server import ModelServer

    @pytest.fixture(scope="session", autouse=True)
    def few_objects_to_collect() -> Iterator[None]:
        """Spare the collector what was imported: each test runs it, to see what is left behind."""
        gc.freeze()
        yield
        gc.unfreeze()

    @pytest.fixture
    def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
        """Give the model's server, at the address that the SDKs read from the environment."""
        with ModelServer() as server, registry.isolated(empty=True):
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", "a key")
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
            yield server
