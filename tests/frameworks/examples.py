"""The agents in docs/sdks.md: each section is a module, with the imports that all share."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents import registry

__all__ = ["HERE", "IN_OPENAI2", "agents_on_the_page", "defined", "source"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sdks.md"
SHARED = "What holds for all of them"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: The agents that are tested in each of the two environments.
HERE = [
    "with_openai",
    "with_anthropic",
    "with_langchain",
    "with_langgraph",
    "with_pydantic_ai",
    "with_smolagents",
    "with_mcp",
]
IN_OPENAI2 = ["with_openai_agents", "with_llamaindex", "with_litellm", "with_google_genai"]


def agents_on_the_page() -> list[str]:
    """Return the agents that the page's table has sections of."""
    table = re.findall(r"^\| \[[\w -]+\]\(#([\w-]+)\)", PAGE.read_text(encoding="utf-8"), re.M)
    names = {"openai-agents-sdk": "openai-agents"}
    return [f"with_{names.get(section, section).replace('-', '_')}" for section in table]


def source(name: str) -> str:
    """Return the module of the section with this agent, each block at the page's own line."""
    text = PAGE.read_text(encoding="utf-8")
    code = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        section = text[: block.start()].rpartition("\n## ")[2].partition("\n")[0]
        if section == SHARED or f"def {name}(" in _section(text, section):
            first = text[: block.start(1)].count("\n")
            lines = block[1].splitlines()
            code[first : first + len(lines)] = lines
    return "\n".join(code)


def _section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@contextmanager
def defined(name: str, folder: Path) -> Iterator[Any]:
    """Execute the section of an agent, and give the agent."""
    file = folder / "page.py"  # smolagents reads the source of its tools
    file.write_text(source(name), encoding="utf-8")
    with registry.isolated(empty=True):
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(ast.parse(source(name)), file, "exec"), names)
        assert registry.problems() == []
        yield names[name]
