"""Signatures that can't be described."""

# Without `from __future__ import annotations`, so that both kinds of annotations are met: real ones
# here, texts in the modules that these tests write.
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import pydantic
import pytest

from agents import registry
from agents.registry import agent
from tests.support.declared import Tools, only_problem


class Opaque:
    pass


def no_parameters() -> None: ...
def no_tools(document: str) -> None: ...
def tools_by_name_only(*, tools: Tools) -> None: ...
def starred(tools: Tools, *documents: str) -> None: ...
def keywords(tools: Tools, **options: str) -> None: ...
def positional_only(tools: Tools, document: str, /) -> None: ...
def opaque(tools: Tools, document: Opaque) -> None: ...
def callback(tools: Tools, document: Callable[[], int]) -> None: ...
def lazily_read(tools: Tools, document: Iterable[int]) -> None: ...
def lazily_read_inside(tools: Tools, document: dict[str, list[Iterable[int]]]) -> None: ...
def a_class(tools: Tools, document: type[int]) -> None: ...
def undefined(tools: Tools, document: "Undefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def undefined_inside(tools: Tools, document: list["Undefined"]) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def no_expression(tools: Tools, document: "a b") -> None: ...  # type: ignore[valid-type]  # noqa: F722
def returns_opaque(tools: Tools, document: str) -> Opaque: ...  # type: ignore[empty-body]
def returns_lazily(tools: Tools, document: str) -> Iterable[int]: ...  # type: ignore[empty-body]
def field_default(tools: Tools, document: str = pydantic.Field("x", min_length=1)) -> None: ...
def default_in_field(
    tools: Tools, document: Annotated[str, pydantic.Field(default="x")]
) -> None: ...
def factory(
    tools: Tools, document: Annotated[list[str], pydantic.Field(default_factory=list)]
) -> None: ...
def alias(tools: Tools, document: Annotated[str, pydantic.Field(alias="doc")]) -> None: ...
def yields(tools: Tools, document: str) -> Iterator[str]:
    yield document


async def yields_async(tools: Tools, document: str) -> Any:
    yield document


class Callable_:
    def __call__(self, tools: Tools, document: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_parameters, "first parameter is not tools"),
        (no_tools, "first parameter is not tools"),
        (tools_by_name_only, "first parameter is not tools"),
        (starred, r"\*documents"),
        (keywords, r"\*\*options"),
        (positional_only, "document is positional-only"),
        (opaque, "parameter document .*Opaque"),
        (callback, "parameter document"),
        (lazily_read, "parameter document"),
        (lazily_read_inside, "parameter document"),
        (a_class, "parameter document"),
        (undefined, "parameter document .*Undefined"),
        (undefined_inside, "parameter document .*Undefined"),
        (no_expression, "parameter document .*a b"),
        (returns_opaque, "returns .*Opaque"),
        (returns_lazily, "returns"),
        (field_default, "default of document is a Field"),
        (default_in_field, "default of document stands in a Field"),
        (factory, "default of document stands in a Field"),
        (alias, "document has an alias"),
        (yields, "yields"),
        (yields_async, "yields"),
        (Opaque, "objects can't be agents"),
        (Callable_(), "objects can't be agents"),
    ],
    ids=str,
)  # fmt: skip
def test_a_signature_that_cant_be_described_is_a_problem(function: Any, said: str) -> None:
    assert agent("it")(function) is function
    problem = only_problem()
    assert problem.id == "agents.E002"
    assert problem.agent == "it"
    assert re.search(said, problem.message)
    assert registry.all() == []


def test_each_bad_parameter_is_a_problem_of_its_own() -> None:
    @agent("it")
    def bad(tools: Tools, one, two: Opaque, *three: str) -> Opaque: ...  # type: ignore[no-untyped-def, empty-body]

    assert len(registry.problems()) == 4


def test_tools_may_be_positional_only_and_the_rest_keyword_only() -> None:
    @agent("it")
    def good(tools: Tools, /, document: str, *, words: int = 5) -> None: ...

    assert registry.get("it").validate_input({"document": "x"}) == {"document": "x"}


def test_the_annotation_of_tools_is_never_evaluated(module: Any) -> None:
    module("""
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from nowhere import Tools
        @agent("it")
        async def it(tools: Tools, words: int) -> str: ...
    """)
    assert registry.problems() == []
    assert registry.get("it").input_schema["required"] == ["words"]


def test_annotations_may_name_what_is_defined_later(module: Any) -> None:
    module("""
        from pydantic import BaseModel
        @agent("it")
        async def it(tools, order: Order, items: list["Item"]) -> Order: ...
        class Order(BaseModel):
            item: Item
        class Item(BaseModel):
            name: str
    """)
    assert registry.problems() == []
    arguments = registry.get("it").validate_input({"order": {"item": {"name": "x"}}, "items": []})
    assert arguments["order"].item.name == "x"


def test_textual_annotations_of_an_inner_function_may_name_locals(module: Any) -> None:
    loaded = module("""
        def define():
            import enum
            class Size(enum.Enum):
                SMALL = "s"
            @agent("it")
            def it(tools, size: Size, sizes: list["Size"]) -> Size: ...
            return Size
    """)
    size = loaded.define()
    assert registry.problems() == []
    arguments = registry.get("it").validate_input({"size": "s", "sizes": ["s"]})
    assert arguments == {"size": size.SMALL, "sizes": [size.SMALL]}


def test_a_wrapper_is_described_by_what_it_wraps() -> None:
    import functools

    def inner(tools: Tools, words: int) -> str: ...  # type: ignore[empty-body]

    @agent("it")
    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any: ...

    assert registry.problems() == []
    assert registry.get("it").function is outer
    assert registry.get("it").input_schema["required"] == ["words"]
