"""One name, one agent."""

# Without `from __future__ import annotations`, so that both kinds of annotations are met: real ones
# here, texts in the modules that these tests write.
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agents import registry
from agents.exceptions import AgentNotFound
from agents.registry import AgentDefinition, Registry, agent
from tests.support.declared import Tools, lambda_named, of, only_problem


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
