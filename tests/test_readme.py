"""The commands and the code of README.md work as described."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import registry, testing
from tests.support.server import Installation, Server

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_it_opens_with_the_two_commands() -> None:
    assert _blocks("")[:2] == ["make run\n", "make test\n"]
    before = README[: README.index("make test")]
    assert before.split() == ["#", "Halting", "```", "make", "run", "```", "```"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Installation(tmp_path_factory.mktemp("readme")).serving() as server:
        yield server


@pytest.mark.slow
def test_the_first_stop_can_be_typed_as_written(server: Server) -> None:
    block = next(block for block in _blocks("sh") if "/api-token" in block)
    block = block.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-s"], input=block, capture_output=True, text=True, timeout=60, check=True
    )
    read = json.JSONDecoder().raw_decode
    agents, end = read(done.stdout)
    last, _ = read(done.stdout[end:].lstrip())
    assert "summarise" in {agent["name"] for agent in agents["results"]}
    assert last["status"] == "stopped"
    assert last["stop"]["reason"] == "seen enough"
    assert last["stop"]["calls_started_after_acknowledgement"] == 0


def test_the_agent_works() -> None:
    [block] = _blocks("python")
    with registry.isolated():
        names: dict[str, Any] = {"__name__": "readme"}
        exec(compile(block, "README.md", "exec"), names)
        result = testing.run(
            names["headlines"], {"text": "Much."}, model=testing.ScriptedModel("One. Two. Three.")
        )
    assert result.status == "success", result.error
    assert result.result == "One. Two. Three."


def test_the_table_of_settings_is_complete() -> None:
    settings = (Path(__file__).resolve().parent.parent / "project" / "settings.py").read_text()
    read = set(re.findall(r'_env\.\w+\(\s*"([A-Z_]+)"', settings))
    shown = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert read == shown
