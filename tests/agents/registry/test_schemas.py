"""Schemas."""

# Without `from __future__ import annotations`, so that both kinds of annotations are met: real ones
# here, texts in the modules that these tests write.
import datetime
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
import pytest

from agents import registry
from agents.registry import agent
from tests.support.declared import Colour, Person, Tools, lambda_named, of, refusal


def test_the_input_schema_carries_what_the_signature_says() -> None:
    @agent("it", title="The title")
    def it(
        tools: Tools,
        document: Annotated[str, pydantic.Field(title="Text", description="What to read.")],
        words: Annotated[int, pydantic.Field(ge=1, le=500)] = 200,
        colour: Colour = Colour.RED,
        people: Sequence[Person] = (),
        due_on: datetime.date = datetime.date(2026, 1, 2),
        mode: Literal["fast", "slow"] = "fast",
    ) -> None: ...

    schema = registry.get("it").input_schema
    properties = schema["properties"]
    assert schema["type"] == "object"
    assert schema["title"] == "The title"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["document"]
    assert list(properties) == ["document", "words", "colour", "people", "due_on", "mode"]
    assert properties["document"] == {
        "type": "string",
        "title": "Text",
        "description": "What to read.",
    }
    assert properties["words"] == {
        "type": "integer",
        "title": "Words",
        "minimum": 1,
        "maximum": 500,
        "default": 200,
    }
    assert properties["colour"] == {"$ref": "#/$defs/Colour", "title": "Colour", "default": "red"}
    assert schema["$defs"]["Colour"]["enum"] == ["red", "blue"]
    assert properties["people"]["items"] == {"$ref": "#/$defs/Person"}
    assert properties["people"]["default"] == []
    assert schema["$defs"]["Person"]["required"] == ["name"]
    assert properties["due_on"]["default"] == "2026-01-02"
    assert properties["mode"]["enum"] == ["fast", "slow"]
    json.dumps(schema, allow_nan=False)


def test_a_default_that_would_be_no_valid_input_is_not_in_the_schema() -> None:
    @agent("it")
    def it(
        tools: Tools,
        sloppy: int = None,  # type: ignore[assignment]  # noqa: RUF013
        sentinel: Any = object(),  # noqa: B008
        endless: float = math.inf,
        huge: str = "x" * 20_000,
        fine: int | None = None,
        empty: list[str] = (),  # type: ignore[assignment]
    ) -> None: ...

    schema = registry.get("it").input_schema
    with_default = [name for name, one in schema["properties"].items() if "default" in one]
    assert with_default == ["fine", "empty"]
    assert schema["properties"]["empty"]["default"] == []
    assert "required" not in schema
    assert registry.get("it").validate_input({}) == {}


def test_an_agent_without_parameters_takes_an_empty_object_only() -> None:
    definition = of(lambda_named("it"))
    assert definition.input_schema["properties"] == {}
    assert definition.validate_input({}) == {}
    assert list(refusal(definition, {"x": 1})) == ["input.x"]


@pytest.mark.parametrize(
    ("returns", "schema"),
    [
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Any, {}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
    ],
)
def test_the_output_schema_is_that_of_the_return_annotation(returns: Any, schema: Any) -> None:
    def it(tools: Tools) -> Any: ...

    it.__annotations__["return"] = returns
    assert of(it).output_schema == schema


def test_without_a_return_annotation_anything_may_be_returned() -> None:
    def it(tools): ...  # type: ignore[no-untyped-def]

    assert of(it).output_schema == {}
    assert of(it).dump_output({"a": [1, None]}) == {"a": [1, None]}


def test_parameters_may_be_called_like_attributes_of_pydantic_models() -> None:
    @agent("it")
    def it(tools: Tools, model_config: int, schema: int, json: int, _x: int, self: int) -> None: ...

    given_ = {"model_config": 1, "schema": 2, "json": 3, "_x": 4, "self": 5}
    assert registry.get("it").validate_input(given_) == given_
