from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core import checks

from agents import registry
from agents.checks import check_agents
from agents.registry import agent


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


def test_a_site_of_good_agents_has_no_errors() -> None:
    @agent("good")
    def good(tools: Any, words: int) -> str: ...  # type: ignore[empty-body]

    assert check_agents() == []


def test_each_problem_is_an_error_with_its_id_place_and_hint() -> None:
    @agent("twin")
    def first(tools: Any) -> None: ...

    @agent("twin")
    def second(tools: Any) -> None: ...

    @agent("undescribed")
    def undescribed(tools: Any, words) -> None: ...  # type: ignore[no-untyped-def]

    @agent("Bad Name")
    def bad_name(tools: Any) -> None: ...

    errors = {error.id: error for error in check_agents()}
    assert sorted(map(str, errors)) == ["agents.E001", "agents.E002", "agents.E003"]
    for error in errors.values():
        assert error.level == checks.ERROR
        assert error.hint
        assert f"{__file__}:" in error.msg
    assert '"twin"' in errors["agents.E001"].msg
    assert "words has no annotation" in errors["agents.E002"].msg
    assert "Bad Name" in errors["agents.E003"].msg


def test_manage_check_runs_it() -> None:
    @agent("Bad")
    def bad(tools: Any) -> None: ...

    assert [error.id for error in checks.run_checks(tags=["agents"])] == ["agents.E003"]
