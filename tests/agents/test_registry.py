# Without `from __future__ import annotations`, so that both kinds of annotations are met: real ones
# here, texts in the modules that these tests write.
import dataclasses
import datetime
import decimal
import enum
import importlib
import itertools
import json
import math
import re
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import registry
from agents.exceptions import AgentNotFound, InvalidInput, InvalidOutput
from agents.options import Options
from agents.registry import AgentDefinition, Registry, agent

Tools = Any


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Write a module and import it; a second time reloads it."""
    name = "module_of_test_registry"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(source: str) -> ModuleType:
        head = "from __future__ import annotations\nfrom agents.registry import agent\n"
        (tmp_path / f"{name}.py").write_text(head + textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        loaded = sys.modules.get(name)
        return importlib.reload(loaded) if loaded else importlib.import_module(name)

    yield load
    sys.modules.pop(name, None)


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


# --- declaring


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

    chosen = Options("requeue", 7, priority=-3, max_concurrent=2, queue_seconds=0.5)

    @agent("second", **dataclasses.asdict(chosen))
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


# --- one name, one agent


def test_the_second_function_of_a_name_is_a_problem_and_the_first_one_stays() -> None:
    @agent("twin")
    def first(tools: Tools) -> None: ...

    @agent("twin")
    def second(tools: Tools) -> None: ...

    assert registry.get("twin").function is first
    assert only_problem().id == "agents.E001"
    assert str(first.__code__.co_firstlineno) in only_problem().message


def test_a_copy_that_was_never_renamed_is_a_duplicate(module: Any) -> None:
    source = """
        @agent("twin")
        def twin(tools, words: int): ...
        first = twin
        @agent("twin")
        def twin(tools, words: str): ...
    """
    loaded = module(source)
    assert only_problem().id == "agents.E001"
    assert registry.get("twin").function is loaded.first


def test_a_reloaded_module_replaces_its_agents_silently_even_if_lines_moved(module: Any) -> None:
    module('@agent("it")\ndef it(tools, words: int): ...')
    assert registry.get("it").input_schema["properties"]["words"]["type"] == "integer"
    loaded = module('# one more line\n@agent("it")\ndef it(tools, words: str): ...')
    assert registry.problems() == []
    assert registry.get("it").function is loaded.it
    assert registry.get("it").input_schema["properties"]["words"]["type"] == "string"


def test_a_reload_mends_a_signature(module: Any) -> None:
    module('@agent("it")\ndef it(tools, words): ...')
    assert only_problem().id == "agents.E002"
    module('@agent("it")\ndef it(tools, words: int): ...')
    assert registry.problems() == []
    assert registry.get("it").name == "it"


def test_a_function_that_defines_an_agent_may_be_called_again() -> None:
    def define() -> Callable[..., None]:
        @agent("inner")
        def inner(tools: Tools) -> None: ...

        return inner

    define()
    again = define()
    assert registry.problems() == []
    assert registry.get("inner").function is again


# --- asking


def test_an_unknown_name_is_answered_with_what_is_close() -> None:
    of(lambda_named("summarise"), "summarise")
    with pytest.raises(AgentNotFound, match=r'"sumarize".*Did you mean "summarise"'):
        registry.get("sumarize")
    with pytest.raises(AgentNotFound, match="There are: summarise"):
        registry.get("zzz")


def test_an_unknown_name_in_an_empty_site_says_that_there_is_none() -> None:
    with pytest.raises(AgentNotFound, match="none is registered"):
        registry.get("zzz")


def test_a_hostile_name_is_not_repeated_whole() -> None:
    with pytest.raises(AgentNotFound) as caught:
        registry.get("\0" * 10_000)
    assert len(str(caught.value)) < 300
    assert "\0" not in str(caught.value)


def test_an_agent_with_a_bad_signature_is_not_there_and_get_says_why() -> None:
    @agent("bad")
    def bad(tools: Tools, words) -> None: ...  # type: ignore[no-untyped-def]

    of(lambda_named("good"), "good")
    assert [definition.name for definition in registry.all()] == ["good"]
    with pytest.raises(AgentNotFound, match="words has no annotation"):
        registry.get("bad")
    with pytest.raises(AgentNotFound, match="words has no annotation"):  # also the second time
        registry.get("bad")


def test_all_is_sorted_by_name() -> None:
    for name in ("c", "a", "b"):
        of(lambda_named(name), name)
    assert [definition.name for definition in registry.all()] == ["a", "b", "c"]


def test_isolation_forgets_what_was_registered_inside_also_by_other_threads() -> None:
    of(lambda_named("before"), "before")
    with registry.isolated():
        thread = threading.Thread(target=of, args=(lambda_named("inside"), "inside"))
        thread.start()
        thread.join()
        agent("Bad")(lambda_named("bad"))
        assert [one.name for one in registry.all()] == ["before", "inside"]
        with registry.isolated(empty=True):
            assert registry.all() == []
            assert registry.problems() == []
        assert registry.get("inside").name == "inside"
    assert [one.name for one in registry.all()] == ["before"]
    assert registry.problems() == []


def test_isolation_ends_when_the_test_fails() -> None:
    def fail() -> None:
        with registry.isolated():
            of(lambda_named("inside"), "inside")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert registry.all() == []


def test_many_threads_that_ask_at_once_get_one_definition() -> None:
    own = Registry()
    for number in range(20):
        own.agent(f"a{number}")(lambda_named("x"))
    start = threading.Barrier(8)
    found: list[list[AgentDefinition]] = []

    def ask() -> None:
        start.wait(timeout=10)
        found.append([own.get(f"a{number}") for number in range(20)])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(found) == 8
    for definitions in zip(*found, strict=True):
        assert len(set(map(id, definitions))) == 1


def lambda_named(name: str) -> Callable[..., None]:
    def function(tools: Tools) -> None: ...

    function.__qualname__ = name
    return function


# --- signatures that can't be described


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


# --- schemas


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


# --- input


def taking(annotation: Any) -> AgentDefinition:
    def it(tools: Tools, value: Any) -> None: ...

    it.__annotations__["value"] = annotation
    return of(it)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


SOME_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("annotation", "value", "argument"),
    [
        (int, 5, 5),
        (int, 10**900, 10**900),
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
        (int, 1.0, "input.value"),
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


# --- output


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
