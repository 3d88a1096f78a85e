"""Declaring."""

# Without `from __future__ import annotations`, so that both kinds of annotations are met: real ones
# here, texts in the modules that these tests write.
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agents import registry
from agents.options import Limits, Options
from agents.registry import agent
from tests.support.declared import Tools, only_problem


def test_a_decorated_function_stays_what_it_was() -> None:
    async def plain(tools: Tools, words: int = 3) -> int:
        return words

    assert agent("plain")(plain) is plain


def test_an_agent_is_described_by_its_name_and_docstring_unless_it_says_more() -> None:
    @agent("find-large_files")
    def find(tools: Tools) -> None:
        """Find what is large.

        Slowly: it looks everywhere.

        Raises:
            Nothing: at all.
        """

    @agent("said", title="A title", description="In its own words.")
    def said(tools: Tools) -> None:
        """Not this."""

    found = registry.get("find-large_files")
    assert found.title == "Find large files"
    assert found.description == "Find what is large.\n\nSlowly: it looks everywhere."
    assert registry.get("said").title == "A title"
    assert registry.get("said").description == "In its own words."


def test_options_have_the_defaults_of_the_contract_and_are_kept() -> None:
    @agent("first")
    async def first(tools: Tools) -> None: ...

    limits = Limits(deadline_seconds=60, idle_seconds=1.5, call_seconds=20)
    chosen = Options("requeue", 7, priority=-3, max_concurrent=2, queue_seconds=0.5, limits=limits)
    flat = {**dataclasses.asdict(chosen), **dataclasses.asdict(limits)}
    del flat["limits"]

    @agent("second", **flat)
    def second(tools: Tools) -> None: ...

    one, two = registry.get("first"), registry.get("second")
    assert (one.is_async, one.options) == (True, Options("fail", 3, 0, None, None))
    assert (two.is_async, two.options) == (False, chosen)


@pytest.mark.parametrize("name", ["a", "summarise", "count-words_2", "a" * 100])
def test_good_names_are_taken(name: str) -> None:
    @agent(name)
    def good(tools: Tools) -> None: ...

    assert registry.get(name).name == name
    assert registry.problems() == []


@pytest.mark.parametrize(
    "name", ["", "Upper", "1st", "-a", "_a", "a b", "a.b", "a/b", "ä", "a" * 101, "a\n", None, 7]
)
def test_a_bad_name_is_a_problem_and_no_import_error(name: Any) -> None:
    @agent(name)
    def bad(tools: Tools) -> None: ...

    assert only_problem().id == "agents.E003"
    assert registry.all() == []


@pytest.mark.parametrize(
    "options",
    [
        {"on_worker_loss": "retry"},
        {"on_worker_loss": None},
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.0},
        {"max_attempts": 1001},
        {"priority": 101},
        {"priority": -101},
        {"priority": "1"},
        {"priority": None},
        {"priority": True},
        {"max_concurrent": 0},
        {"max_concurrent": 1.0},
        {"max_concurrent": True},
        {"queue_seconds": -1},
        {"queue_seconds": float("nan")},
        {"queue_seconds": float("inf")},
        {"queue_seconds": "60"},
        {"queue_seconds": True},
        {"deadline_seconds": 0},
        {"deadline_seconds": "60"},
        {"deadline_seconds": float("inf")},
        {"idle_seconds": -1},
        {"call_seconds": True},
        {"title": 5},
        {"description": None},
    ],
)
def test_a_bad_option_is_a_problem_and_no_import_error(options: dict[str, Any]) -> None:
    @agent("it", **options)
    def bad(tools: Tools) -> None: ...

    assert only_problem().id == "agents.E003"
    assert next(iter(options)) in only_problem().message
    assert registry.all() == []


def test_a_decorator_without_parentheses_is_a_problem_and_the_function_survives() -> None:
    @agent  # type: ignore[arg-type]
    def bare(tools: Tools) -> str:
        return "still here"

    assert bare(None) == "still here"  # type: ignore[arg-type, call-overload, comparison-overlap]
    assert only_problem().id == "agents.E003"
    assert '@agent("bare")' in only_problem().hint


def test_a_problem_says_where_the_function_is() -> None:
    @agent("Bad")
    def bad(tools: Tools) -> None: ...

    file, _, line = only_problem().where.rpartition(":")
    assert Path(file) == Path(__file__)
    assert Path(__file__).read_text().splitlines()[int(line) - 1].strip() == '@agent("Bad")'
