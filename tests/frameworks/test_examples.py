"""The agents in docs/frameworks.md run, and are stopped as the page says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import registry
from agents.testing import MemoryDataStore, running

from .mcp_server import ToolServer
from .model_server import ModelServer
from .test_matrix import REASON, assert_stopped

PAGE = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def source() -> str:
    """Return the page's blocks as one module, each at its own line."""
    text = PAGE.read_text(encoding="utf-8")
    code = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n")
        lines = block[1].splitlines()
        code[first : first + len(lines)] = lines
    return "\n".join(code)


def agents_on_the_page() -> list[str]:
    functions = ast.parse(source()).body
    names = [getattr(function, "name", "") for function in functions]
    return [name for name in names if name.startswith("with_")]


@pytest.fixture
def page(server: ModelServer, tmp_path: Path) -> Iterator[dict[str, Any]]:
    file = tmp_path / "page.py"  # smolagents reads the source of its tools
    file.write_text(source(), encoding="utf-8")
    with registry.isolated(empty=True):
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(source(), file, "exec"), names)
        assert registry.problems() == []
        yield names


@pytest.mark.parametrize("name", [name for name in agents_on_the_page() if name != "with_mcp"])
@pytest.mark.parametrize("turn", [1, 2])
async def test_it_is_stopped_in_a_call_and_keeps_what_it_has(
    page: dict[str, Any], server: ModelServer, caplog: Any, name: str, turn: int
) -> None:
    store = MemoryDataStore()
    server.hold()
    async with running(page[name], {"question": "What is there?"}, data_store=store) as run:
        for number in range(1, turn):
            await server.until_requests(number)
            server.let_go()
        await server.until_requests(turn)
        run.stop(reason=REASON)
        server.release()
        result = await assert_stopped(run, server, caplog, requests=turn)
    assert result.partial_result == [f"thing {number}" for number in range(turn)]


async def test_the_agent_that_uses_mcp_keeps_the_answer_of_the_call_in_flight(
    page: dict[str, Any],
) -> None:
    with ToolServer() as things:
        async with running(page["with_mcp"], {"url": things.url}) as run:
            await things.until("tools/call look", 3)
            run.stop()
            result = await run.result()
    assert result.status == "stopped"
    assert len(result.partial_result) == things.count("tools/call look")


def test_each_section_with_an_argument_has_an_agent() -> None:
    table = re.findall(r"^\| \[[\w-]+\]\(#([\w-]+)\)", PAGE.read_text(encoding="utf-8"), re.M)
    assert [f"with_{name.replace('-', '_')}" for name in table] == agents_on_the_page()
