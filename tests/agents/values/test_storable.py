from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.values import jsonable, storable
from agents.values.storable import check, child_path, clean_text, find


def nested(depth: int, innermost: Any = 1) -> Any:
    value = innermost
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("a\0b", ["input"]),
        ("a\ud800", ["input"]),
        ("\udfff\ud800", ["input"]),
        (math.nan, ["input"]),
        (-math.inf, ["input"]),
        (10**1000, ["input"]),
        (-(10**1000), ["input"]),
        (["fine", "\0"], ["input.1"]),
        ({"a": {"b": ["x", math.inf]}}, ["input.a.b.1"]),
        ({"a\0": 1}, ["input"]),
        ({"a": {"\ud800": 1}}, ["input.a"]),
        ([[], ["\0"], {"k": "\0"}], ["input.1.0", "input.2.k"]),
        ({1: "x"}, ["input"]),
        (object(), ["input"]),
        ([b"bytes"], ["input.0"]),
        ({"a": {1}}, ["input.a"]),
    ],
)
def test_what_cant_be_stored_is_named_by_path(value: object, paths: list[str]) -> None:
    assert list(check(value)) == paths


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "ä\U0001f600\ufffd",
        0,
        10**1000 - 1,
        -(10**1000) + 1,
        1e308,
        [],
        {},
        {"": [{}, [], ""]},
        ("a", ["b"]),
        nested(100),
    ],
)
def test_what_can_be_stored_has_no_problem(value: object) -> None:
    assert check(value) == {}


def test_subclasses_of_json_types_are_json() -> None:
    class Text(str):
        __slots__ = ()

        def __contains__(self, item: object) -> bool:
            raise RuntimeError

    class Number(enum.IntEnum):
        ONE = 1

    assert check([Text("x"), Number.ONE, {Text("k"): 1}]) == {}
    assert list(check([Text("\0")])) == ["input.0"]


@pytest.mark.parametrize("depth", [101, 200, 100_000])
def test_nesting_is_bounded_however_deep_it_is(depth: int) -> None:
    (path,) = check(nested(depth))
    assert path == "input" + ".0" * 100


def test_the_depth_that_is_allowed_can_be_chosen() -> None:
    assert check(nested(3), max_depth=3) == {}
    assert list(check({"a": {"b": {}}}, max_depth=2)) == ["input.a.b"]
    assert check(nested(150), max_depth=200) == {}
    assert list(check(nested(150, "\0"), max_depth=200)) == ["input" + ".0" * 150]


def test_the_path_begins_as_asked() -> None:
    assert list(check(["\0"], "output")) == ["output.0"]


def test_a_structure_that_holds_itself_has_an_end() -> None:
    endless: list[Any] = []
    endless += [endless, endless, {"again": endless}]
    assert check(endless)


def test_parts_that_are_shared_are_not_looked_at_again_and_again() -> None:
    opened: list[object] = []

    class Counted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            opened.append(self)
            return super().__iter__()

    shared: Any = "fine"
    for _ in range(15):
        shared = Counted([shared, shared])
    assert list(check([shared, "\0"])) == ["input.1"]
    assert len(opened) == 15  # and not 2**15


def test_after_a_hundred_problems_it_looks_no_further_and_says_so() -> None:
    problems = check(["\0"] * 1000)
    assert len(problems) == 101
    assert problems["input"] == ["Only the first 100 problems are listed."]


def test_a_path_is_presentable_whatever_the_keys_are() -> None:
    paths = list(check({"\0" + "k" * 10_000: math.nan}))
    assert [path[:9] for path in paths] == ["input", "input.\ufffdkk"]
    assert len(paths[1]) < 150
    assert child_path("input", "a\0") == "input.a\ufffd"
    assert len(child_path("input", "k" * 10_000)) < 150
    assert child_path("input", 3) == "input.3"
    assert child_path("input", 10**5000) == "input.int"
    assert child_path("input", (1, 2)) == "input.tuple"


def test_text_is_cleaned_and_cut_visibly() -> None:
    assert clean_text("a\0b\ud800c") == "a\ufffdb\ufffdc"
    assert clean_text("plain") == "plain"
    assert clean_text("x" * 12_350, 5) == "xxxxx… [12,345 more characters]"
    assert clean_text("x" * 5, 5) == "xxxxx"


def test_text_of_a_hostile_class_is_cleaned_too() -> None:
    class Text(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise RuntimeError

        __str__ = __getitem__ = isascii = encode = __len__  # type: ignore[assignment]

    assert clean_text(Text("ab\0"), 2) == "ab… [1 more characters]"
    assert type(clean_text(Text("ab"))) is str


def test_the_first_number_that_is_not_finite_is_named_in_any_container() -> None:
    def path_of(value: object) -> str | None:
        found = find(value, "output", lambda item: isinstance(item, float) and item != item)
        return found and found[0]

    assert path_of({"a": [1.0, (2.0, {math.nan})]}) == "output.a.1.1.0"
    assert path_of({"a": [1.0, object(), "x", 2**5000]}) is None
    assert path_of(math.nan) == "output"


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=[]), max_size=3), inner)
    ),
    max_leaves=15,
)


def storable_by_the_book(value: Any) -> bool:
    """A second opinion, slow and simple: what PostgreSQL's jsonb takes."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, UnicodeEncodeError):
        return False
    return "\\u0000" not in text.replace("\\\\", "")


@given(ANY_JSON)
def test_the_quick_look_and_the_close_one_agree_with_a_second_opinion(value: Any) -> None:
    problems = check(value)
    assert (problems == {}) is storable_by_the_book(value)
    assert (problems == {}) is (storable._find_problems(value, "input", 100) == {})


@given(ANY_JSON)
def test_each_problem_is_found_where_its_path_says(value: Any) -> None:
    for path in check({"v": value}, "i"):
        assert path == "i" or path.startswith("i.v")


@given(ANY_JSON)
def test_what_was_cleaned_can_be_stored(value: Any) -> None:
    assert storable_by_the_book(jsonable.clean(value))
