from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import itertools
import json
import math
import pathlib
import threading
import types
import uuid
from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.exceptions import AgentStopped
from agents.values.jsonable import check, clean, dump, error_text


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    secret: str = dataclasses.field(default="s3cret", repr=False)


class Pair(NamedTuple):
    a: int
    b: str


class Person(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr = pydantic.SecretStr("s3cret")
    hidden: str = pydantic.Field("s3cret", repr=False)
    excluded: str = pydantic.Field("s3cret", exclude=True)


class Raising:
    """Raises whatever it is told from each of its dunders."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "error", error)

    def __repr__(self) -> str:
        raise self.error

    __str__ = __repr__
    __len__ = __iter__ = __bool__ = __hash__ = __repr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise self.error

    @property
    def __class__(self) -> Any:
        raise self.error


ONE_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        (None, None),
        (True, True),
        (5, 5),
        (1.5, 1.5),
        ("text", "text"),
        ("a\0\ud800", "a\ufffd\ufffd"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ((1, [2, {3}]), [1, [2, [3]]]),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (deque([1, 2]), [1, 2]),
        (Pair(1, "x"), [1, "x"]),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (types.MappingProxyType({"a": (1,)}), {"a": [1]}),
        ({1: 1, None: 2, False: 3, 1.5: 4}, {"1": 1, "null": 2, "false": 3, "1.5": 4}),
        ({"\0": 1}, {"\ufffd": 1}),
        ({1: "int", "1": "str"}, {"1": "int", "1 (#2)": "str"}),
        ({(1, 2): 3}, {"[1, 2]": 3}),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Point(1), {"x": 1}),
        (Person(name="n"), {"name": "n", "password": "SecretStr('**********')"}),
        (pydantic.RootModel[list[int]]([1]), [1]),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00Z"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(seconds=5), "PT5S"),
        (decimal.Decimal("1.50"), "1.50"),
        (decimal.Decimal("NaN"), "NaN"),
        (ONE_ID, str(ONE_ID)),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (b"text", "text"),
        (bytearray(b"\xff" * 12_345), "<12,345 bytes>"),
        (range(3), "range(0, 3)"),
        (ValueError("x"), "ValueError('x')"),
        (10**5000, "<integer of 5,001 digits>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_becomes_json(value: object, cleaned: object) -> None:
    result = clean(value)
    assert result == cleaned
    assert type(result) is type(cleaned)
    json.dumps(result, allow_nan=False).encode()


def test_a_generator_is_shown_and_not_consumed() -> None:
    generator = (number for number in [1, 2])
    assert "generator" in clean([generator])[0]
    assert list(generator) == [1, 2]


def test_cycles_are_marked_and_shared_parts_are_not() -> None:
    value: dict[str, Any] = {"shared": [1]}
    value["also"] = value["shared"]
    value["self"] = [value]
    assert clean(value) == {"shared": [1], "also": [1], "self": ["<cycle>"]}


def test_a_cycle_through_objects_is_marked() -> None:
    point = Point(1)
    point.x = point  # type: ignore[assignment]
    assert clean(point) == {"x": "<cycle>"}


def test_long_texts_are_cut_visibly() -> None:
    assert clean("x" * 20, max_string=5) == "xxxxx… [15 more characters]"
    assert clean({"k" * 20: b"x" * 20}, max_string=5) == {
        "kkkkk… [15 more characters]": "xxxxx… [15 more characters]"
    }
    assert clean("x" * 200_000, max_string=None) == "x" * 200_000


def test_too_many_items_are_cut_visibly_counting_the_whole_value() -> None:
    assert clean([1, 2, 3, 4], max_items=2) == [1, 2, "… [2 more items]"]
    assert clean({"a": 1, "b": 2}, max_items=1) == {"a": 1, "…": "[1 more items]"}
    assert clean([[1, 2], [3]], max_items=2) == [[1, "… [1 more items]"], "… [1 more items]"]
    assert len(clean(list(range(50_000)), max_items=None)) == 50_000


def test_a_structure_that_grows_without_end_is_bounded() -> None:
    value: Any = ["x"]
    for _ in range(90):
        value = [value, value]
    assert len(json.dumps(clean(value))) < 2_000_000


@pytest.mark.parametrize("depth", [101, 1000, 100_000])
def test_deep_nesting_is_cut_visibly(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    result = clean(value)
    assert check(result) == {}
    assert "<nested too deep>" in json.dumps(result)
    assert clean([[[1]]], max_depth=2) == [["<nested too deep>"]]
    assert clean([[1]], max_depth=2) == [[1]]


def test_it_works_with_hardly_any_stack_left() -> None:
    deepest: list[Any] = []
    raised_inside: list[RecursionError] = []

    def sink() -> None:
        try:
            sink()
        finally:
            if len(deepest) < 30:
                try:
                    deepest.append(clean([[[[[["x"]]]]]]))
                except RecursionError as error:
                    # Without room for the call itself, no code could help.
                    traceback = error.__traceback__
                    if traceback is not None and traceback.tb_next is not None:
                        raised_inside.append(error)

    with pytest.raises(RecursionError):
        sink()
    assert raised_inside == []
    assert len(deepest) == 30
    assert "<nested too deep>" in deepest
    assert deepest[-1] == [[[[[["x"]]]]]]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), AgentStopped(), GeneratorExit(), BaseException("x"), RecursionError("x")],
    ids=lambda error: type(error).__name__,
)
def test_objects_that_raise_are_shown_as_unprintable(error: BaseException) -> None:
    assert clean(Raising(error)) == "<unprintable Raising>"
    assert clean({"a": [Raising(error)]}) == {"a": ["<unprintable Raising>"]}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_what_may_be_a_signal_passes_on_the_main_thread_and_only_there(
    error: BaseException,
) -> None:
    with pytest.raises(type(error)):
        clean(Raising(error))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(clean(Raising(error))))
    thread.start()
    thread.join(timeout=10)
    assert results == ["<unprintable Raising>"]


def test_hostile_subclasses_are_reduced_to_what_they_hold() -> None:
    def fail(*args: object, **kwargs: object) -> Any:
        raise RuntimeError

    names = ("__str__", "__repr__", "__len__", "__iter__", "__getitem__", "__contains__", "__eq__")
    body = dict.fromkeys((*names, "items", "keys", "encode", "replace", "isascii"), fail)
    body["__hash__"] = str.__hash__
    hostile_text = type("Text", (str,), body)("a\0")
    hostile_dict = type("Dict", (dict,), {**body, "__hash__": None})(a=1)
    hostile_list = type("List", (list,), {**body, "__hash__": None})([1])
    hostile_int = type("Int", (int,), {**body, "__int__": fail, "__lt__": fail, "__hash__": None})(
        7
    )
    result = clean([hostile_text, hostile_dict, hostile_list, hostile_int])
    assert [*map(type, result)] == [str, dict, list, int]
    assert result == ["a\ufffd", {"a": 1}, [1], 7]


def test_a_mapping_and_attributes_that_raise_spoil_nothing_else() -> None:
    class Odd(types.SimpleNamespace):
        pass

    @dataclasses.dataclass
    class Half:
        fine: int
        broken: int

    half = Half(1, 2)
    del half.broken
    assert clean({"half": half, "odd": Odd(a=1)}) == {
        "half": {"fine": 1, "broken": "<unreadable: AttributeError>"},
        "odd": "test_a_mapping_and_attributes_that_raise_spoil_nothing_else.<locals>.Odd(a=1)"
        if "<locals>" in repr(Odd())
        else "Odd(a=1)",
    }


def test_a_metaclass_that_hides_its_name_is_shown_all_the_same() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:
            raise RuntimeError

    class Nameless(metaclass=Meta):
        def __repr__(self) -> str:
            raise RuntimeError

    assert clean(Nameless()) == "<unprintable Nameless>"


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=[])),
        st.binary(),
        st.decimals(),
        st.datetimes(),
        st.timedeltas(),
        st.uuids(),
        st.complex_numbers(),
        st.builds(object),
        st.sampled_from([Colour.RED, Level.HIGH, int, len]),
        st.builds(lambda: Raising(ValueError())),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text() | st.integers() | st.none() | st.binary(), inner),
        st.builds(Point, inner),
    ),
    max_leaves=15,
)


@given(ANYTHING, st.integers(0, 20), st.integers(0, 10), st.integers(0, 4))
def test_whatever_comes_out_can_be_stored_and_stays_the_same(
    value: object, max_string: int, max_items: int, max_depth: int
) -> None:
    result = clean(value, max_string=max_string, max_items=max_items, max_depth=max_depth)
    assert check(result) == {}
    json.dumps(result, allow_nan=False).encode()
    whole = clean(value)
    assert clean(whole) == whole


@pytest.mark.parametrize(
    ("value", "dumped"),
    [
        ({"a": (1, None, "x")}, {"a": [1, None, "x"]}),
        (Point(1), {"x": 1, "secret": "s3cret"}),
        ("a\0", "a\ufffd"),
        ([{"k\0": "\ud800"}], [{"k\ufffd": "\ufffd"}]),
        ({"k\0": 1, "k\ufffd": 2, "x": 3}, {"k\ufffd": 1, "k\ufffd (#2)": 2, "x": 3}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Colour.RED, "red"),
    ],
)
def test_what_an_agent_hands_over_is_dumped(value: object, dumped: object) -> None:
    assert dump(value) == dumped


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [math.nan]}, r"value\.a\.0: NaN"),
        (Person.model_construct(name=math.inf), "value"),
        (object(), "value: .*object"),
        (Raising(ValueError("x")), "value: "),
        (10**1000, "value: .*1,000 digits"),
        (b"\xff", "value: "),
        (iter([1]), "value: .*iterator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cant_hold_is_not_dumped(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dump(value)


def test_what_is_dumped_is_a_copy() -> None:
    value = {"a": [1]}
    dumped = dump(value)
    value["a"].append(2)
    assert dumped == {"a": [1]}


def test_the_text_of_an_error_is_safe() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise AgentStopped

    assert error_text(ValueError("a\0")) == "a\ufffd"
    assert error_text(ValueError()) == ""
    assert error_text(Broken()) == "<unprintable Broken>"
    assert error_text(ValueError("x" * 20), 5) == "xxxxx… [15 more characters]"
    assert error_text(AgentStopped("why")) == "why"


def test_dump_refuses_an_endless_iterator_however_deep_it_is() -> None:
    value: Any = itertools.count()
    for _ in range(200):
        value = [value]
    with pytest.raises(ValueError, match="count is an iterator"):
        dump(value)


@pytest.mark.parametrize("value", [{"x": itertools.count()}, [1, (itertools.count(),)]])
def test_dump_refuses_an_endless_iterator_wherever_it_is(value: object) -> None:
    with pytest.raises(ValueError, match=r"value\.(x|1\.0): count is an iterator"):
        dump(value)
