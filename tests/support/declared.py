"""Helpers for the tests in tests/agents/registry."""

# Without `from __future__ import annotations`: the annotations here are real objects.
import enum
from collections.abc import Callable
from typing import Any

import pydantic
import pytest

from agents import registry
from agents.exceptions import InvalidInput
from agents.registry import AgentDefinition, agent

Tools = Any


def of(function: Callable[..., Any], name: str = "it") -> AgentDefinition:
    agent(name)(function)
    return registry.get(name)


def refusal(definition: AgentDefinition, value: object) -> dict[str, list[str]]:
    with pytest.raises(InvalidInput) as caught:
        definition.validate_input(value)
    return caught.value.fields


def only_problem() -> registry.Problem:
    (problem,) = registry.problems()
    return problem


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(pydantic.BaseModel):
    name: str
    age: int = 0
    extra: Any = None


def lambda_named(name: str) -> Callable[..., None]:
    def function(tools: Tools) -> None: ...

    function.__qualname__ = name
    return function
