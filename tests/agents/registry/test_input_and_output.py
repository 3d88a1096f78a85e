"""What goes into an agent, and what comes out of it."""

import dataclasses
import datetime
import decimal
import enum
import itertools
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agents import registry
from agents.exceptions import InvalidInput, InvalidOutput
from agents.registry import AgentDefinition, agent
from tests.support.declared import Colour, Person, Tools, lambda_named, of, refusal


def taking(annotation: Any) -> AgentDefinition:
    def it(tools: Tools, value: Any) -> None: ...

    it.__annotations__["value"] = annotation
    return of(it)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Number(enum.Enum):
    ONE = 1
    TWO = 2


SOME_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("annotation", "value", "argument"),
    [
        (int, 5, 5),
        (int, 10**900, 10**900),
        (int, 3.0, 3),
        (int, -0.0, 0),
        (int, 1e22, 10**22),
        (int, float(2**53 + 2), 2**53 + 2),
        (None | int, 3.0, 3),
        (list[int], [1, 2.0], [1, 2]),
        (list[int], [1.0] * 20_000, [1] * 20_000),
        (dict[int, int], {"1": 2.0}, {1: 2}),
        (tuple[int, float], [3.0, 3.0], (3, 3.0)),
        (int | str, 3.0, 3),
        (int | float, 3.0, 3.0),
        (int | list[int], [3.0], [3]),
        (float, 3.0, 3.0),
        (Any, 3.0, 3.0),
        (Annotated[int, pydantic.Field(ge=3, multiple_of=3)], 3.0, 3),
        (Literal[1, "a"], 1.0, 1),
        (Number, 2.0, Number.TWO),
        (frozenset[datetime.date], ["2026-01-02"], frozenset({datetime.date(2026, 1, 2)})),
        (decimal.Decimal, 1.5, decimal.Decimal("1.5")),
        (decimal.Decimal, "1e-3", decimal.Decimal("0.001")),
        (float, 5, 5.0),
        (str, "ä\U0001f600", "ä\U0001f600"),
        (bool, True, True),
        (None | int, None, None),
        (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
        (
            datetime.datetime,
            "2026-01-02T03:04:05Z",
            datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        ),
        (datetime.timedelta, "PT5S", datetime.timedelta(seconds=5)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (uuid.UUID, str(SOME_ID), SOME_ID),
        (Colour, "blue", Colour.BLUE),
        (bytes, "abc", b"abc"),
        (set[int], [1, 2], {1, 2}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Point, {"x": 1}, Point(1)),
        (Person, {"name": "n"}, Person(name="n")),
        (list[Person], [{"name": "n", "age": 3}], [Person(name="n", age=3)]),
        (Any, {"a": [1, 2.5, None, "x"]}, {"a": [1, 2.5, None, "x"]}),
    ],
)
def test_input_becomes_arguments(annotation: Any, value: Any, argument: Any) -> None:
    arguments = taking(annotation).validate_input({"value": value})
    assert arguments == {"value": argument}
    assert type(arguments["value"]) is type(argument)


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (int, "12", "input.value"),
        (int, True, "input.value"),
        (int, 1.5, "input.value"),
        (Literal[1, 2], True, "input.value"),
        (Literal[True], 1, "input.value"),
        (Number, True, "input.value"),
        (Number, 3, "input.value"),
        (uuid.UUID, "{12345678-1234-5678-1234-567812345678}", "input.value"),
        (uuid.UUID, "12345678123456781234567812345678", "input.value"),
        (decimal.Decimal, "NaN", "input.value"),
        (decimal.Decimal, "1_000", "input.value"),
        (decimal.Decimal, True, "input.value"),
        (set[int], [1, 1.0], "input.value"),
        (int, None, "input.value"),
        (float, "1.5", "input.value"),
        (float, True, "input.value"),
        (str, 1, "input.value"),
        (bool, 1, "input.value"),
        (bool, "true", "input.value"),
        (datetime.date, "soon", "input.value"),
        (Colour, "green", "input.value"),
        (list[str], "abc", "input.value"),
        (Sequence[str], "abc", "input.value"),
        (list[int], [1, "2"], "input.value.1"),
        (Person, {"name": "n", "age": "3"}, "input.value.age"),
        (Person, {}, "input.value.name"),
        (list[Person], [{"name": "n"}, {"name": 1}], "input.value.1.name"),
        (dict[str, list[int]], {"a": [1, None]}, "input.value.a.1"),
        (int | list[int], ["x"], "input.value.0"),
        (dict[int, str], {"x": "a"}, "input.value.x"),
    ],
)
def test_what_does_not_fit_is_refused_by_path(annotation: Any, value: Any, path: str) -> None:
    assert path in refusal(taking(annotation), {"value": value})


def test_every_bad_field_is_named_at_once() -> None:
    @agent("it")
    def it(tools: Tools, document: str, words: int = 200) -> None: ...

    fields = refusal(registry.get("it"), {"words": "many", "more": 1})
    assert fields == {
        "input.document": ["This field is required."],
        "input.words": ["Input should be a valid integer"],
        "input.more": ["There is no such field."],
    }


@pytest.mark.parametrize("value", [None, [], "x", 5, [["document", "x"]]])
def test_input_that_is_no_object_is_refused(value: object) -> None:
    assert list(refusal(taking(str), value)) == ["input"]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\0", "input.value"),
        (["a", "\ud800"], "input.value.1"),
        ({"a": math.nan}, "input.value.a"),
        ([math.inf], "input.value.0"),
        ({"\0": 1}, "input.value"),
        (10**1000, "input.value"),
        ([object()], "input.value.0"),
        ({1: 2}, "input.value"),
    ],
)
def test_input_that_cant_be_stored_is_refused_by_path(value: object, path: str) -> None:
    assert list(refusal(taking(Any), {"value": value})) == [path]


def test_a_structure_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless += [endless, endless]
    assert refusal(taking(Any), {"value": endless})


def test_defaults_are_left_for_the_function_to_fill() -> None:
    @agent("it")
    def it(tools: Tools, document: str, words: int = 200) -> None: ...

    assert registry.get("it").validate_input({"document": "x"}) == {"document": "x"}


def test_a_validator_of_the_authors_that_breaks_refuses_the_input() -> None:
    def broken(value: str) -> str:
        raise KeyError("nothing there")

    annotation = Annotated[str, pydantic.AfterValidator(broken)]
    assert refusal(taking(annotation), {"value": "x"}) == {
        "input": ["This could not be checked: 'nothing there'"]
    }


def test_thousands_of_bad_fields_are_counted_and_not_all_listed() -> None:
    fields = refusal(taking(list[int]), {"value": ["x"] * 500})
    assert len(fields) == 101
    assert fields["input"] == ["And 400 more problems."]
    fields = refusal(taking(list[int]), {"value": ["x"] * 20_000})
    assert fields == {"input": ["There are 20,000 problems, too many to list."]}


def test_long_keys_do_not_make_long_paths() -> None:
    (path,) = refusal(of(lambda_named("it")), {"k" * 100_000: 1})
    assert len(path) < 200


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON_VALUES)
def test_any_json_passes_unchanged_through_a_parameter_of_any_type(value: Any) -> None:
    with registry.isolated(empty=True):
        definition = taking(Any)
        assert definition.validate_input({"value": value}) == {"value": value}
        assert definition.input_schema["required"] == ["value"]


@given(JSON_VALUES)
def test_any_other_input_is_refused_with_fields(value: Any) -> None:
    with registry.isolated(empty=True):
        definition = taking(Person | None)
        fits = isinstance(value, dict) and set(value) == {"value"} and value["value"] is None
        if not fits:
            fields = refusal(definition, value)
            assert fields
            assert all(path == "input" or path.startswith("input.") for path in fields)


#: Values that are close to what the types below take.
CLOSE = st.recursive(
    st.sampled_from(
        [None, True, False, 0, 1, 2, 3, -1, 0.0, -0.0, 1.0, 2.0, 1.5, 1e22, 2**53 + 1, 2**80, "",
         "a", "1", "1.0", "1e5", "NaN", "true", "null", str(SOME_ID), "blue", "red", "2026-01-02"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["a", "1", "x", "y", "name", "age", "n"]), inner, max_size=3
    ),
    max_leaves=6,
)  # fmt: skip
TYPES = [
    int, float, bool, str, None | int, int | str, int | float, float | bool, list[int],
    dict[str, int], set[int], frozenset[str], tuple[int, float], Point, Person, list[Point],
    Point | int, Colour,
    Number, Literal[1, "a", None], Literal[True, 2], decimal.Decimal, uuid.UUID, None | Number,
    Annotated[int, pydantic.Field(ge=1, lt=3)], Annotated[float, pydantic.Field(gt=0)],
    Annotated[str, pydantic.Field(min_length=1, max_length=3)], list[Literal[1, 2]],
    Annotated[list[int], pydantic.Field(min_length=1)], dict[str, list[Number]], list[set[int]],
    pydantic.PositiveInt, Any,
]  # fmt: skip


@pytest.mark.parametrize("annotation", TYPES, ids=str)
@settings(max_examples=40)
@given(value=CLOSE)
def test_what_the_published_schema_allows_is_what_is_taken(annotation: Any, value: Any) -> None:
    with registry.isolated(empty=True):
        definition = taking(annotation)
        schema = Draft202012Validator(
            definition.input_schema, format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        try:
            definition.validate_input({"value": value})
            is_taken = True
        except InvalidInput:
            is_taken = False
        assert is_taken == schema.is_valid({"value": value})


def giving(annotation: Any) -> AgentDefinition:
    def it(tools: Tools) -> Any: ...

    it.__annotations__["return"] = annotation
    return of(it)


@pytest.mark.parametrize(
    ("annotation", "value", "output"),
    [
        (str, "x", "x"),
        (None, None, None),
        (Any, {"a": (1, {2})}, {"a": [1, [2]]}),
        (Person, Person(name="n"), {"name": "n", "age": 0, "extra": None}),
        (Person, {"name": "n"}, {"name": "n", "age": 0, "extra": None}),
        (list[Person], [{"name": "n"}], [{"name": "n", "age": 0, "extra": None}]),
        (Point, Point(1), {"x": 1, "y": 0}),
        (Any, Point(1), {"x": 1, "y": 0}),
        (datetime.date, datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.date, "2026-01-02", "2026-01-02"),
        (Any, datetime.date(2026, 1, 2), "2026-01-02"),
        (Colour, Colour.RED, "red"),
        (list[str], ("a", "b"), ["a", "b"]),
        (float, 1, 1.0),
        (Any, float("1e308"), 1e308),
        (Any, SOME_ID, str(SOME_ID)),
        (str, "a\0b", "a\ufffdb"),
        (str, "a\ud800", "a\ufffd"),
        (Any, {"k\0": ["\0", "\udfff"]}, {"k\ufffd": ["\ufffd", "\ufffd"]}),
        (Person, Person(name="\0"), {"name": "\ufffd", "age": 0, "extra": None}),
        (Person, {"name": "\ud800"}, {"name": "\ufffd", "age": 0, "extra": None}),
    ],
)
def test_what_an_agent_returns_becomes_json(annotation: Any, value: Any, output: Any) -> None:
    assert giving(annotation).dump_output(value) == output


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class VeryHostile(Hostile):
    def __repr__(self) -> str:
        raise BaseException("no repr at all")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cycle() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "12"),
        (int, True),
        (str, None),
        (None, 0),
        (Person, {"name": 1}),
        (Person, Person.model_construct(name=5)),
        (Person, Person.model_construct(name=Hostile())),
        (Person, Person.model_construct(name=VeryHostile())),
        (float, math.nan),
        (Any, math.nan),
        (Any, {"a": [math.inf]}),
        (Any, Person(name="n", extra=math.nan)),
        (list[Person], [Person(name="n", extra={"x": -math.inf})]),
        (Any, object()),
        (Any, Hostile()),
        (str, Hostile()),
        (str, VeryHostile()),
        (Any, {Hostile(): 1}),
        (Any, cycle()),
        (Any, nested(101)),
        (Any, nested(100_000)),
        (Any, b"\xff"),
        (Any, 10**1000),
        (Any, 10**5000),
        (Any, iter([1])),
        (list[int], itertools.count()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_or_the_annotation_cant_hold_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(InvalidOutput, match="agent it"):
        giving(annotation).dump_output(value)


def test_a_refused_output_says_where() -> None:
    with pytest.raises(InvalidOutput, match=r"output\.1\.extra\.0: NaN"):
        giving(Any).dump_output([Person(name="a"), Person(name="b", extra=[math.nan])])
    with pytest.raises(InvalidOutput, match=r"output\.1\.age: .*integer"):
        giving(list[Person]).dump_output([{"name": "a"}, {"name": "b", "age": "3"}])


def test_output_at_the_limit_of_depth_is_fine() -> None:
    assert giving(Any).dump_output(nested(100)) == nested(100)


def test_broken_serializers_and_validators_of_the_authors_make_an_invalid_output() -> None:
    def broken(value: int) -> int:
        raise GeneratorExit

    serialized = Annotated[int, pydantic.PlainSerializer(broken)]
    with pytest.raises(InvalidOutput):
        giving(serialized).dump_output(1)
    with registry.isolated(empty=True), pytest.raises(InvalidOutput):
        giving(Annotated[int, pydantic.AfterValidator(broken)]).dump_output(1)


def test_aliases_of_models_are_used_both_ways() -> None:
    class Aliased(pydantic.BaseModel):
        first_name: str = pydantic.Field(alias="firstName")

    assert giving(Aliased).dump_output(Aliased(firstName="x")) == {"firstName": "x"}
    assert list(giving(Aliased).output_schema["properties"]) == ["firstName"]


@given(JSON_VALUES)
def test_any_json_is_an_output_and_is_copied(value: Any) -> None:
    with registry.isolated(empty=True):
        output = giving(Any).dump_output(value)
        assert output == value
        assert not isinstance(value, (list, dict)) or output is not value
