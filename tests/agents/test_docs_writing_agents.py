"""The code in docs/writing-agents.md runs, and does what the page says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections

from agents import check_should_stop, registry
from agents.cancellation import current_token
from agents.testing import ScriptedModel, run, running

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-agents.md"


def source() -> str:
    """Return the page's blocks as one module, each at its own line."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    code, inside = [], False
    for line in lines:
        is_fence = line.startswith("```")
        code.append(line if inside and not is_fence else "")
        if is_fence:
            inside = line == "```python"
    return "\n".join(code)


TESTS = [
    node.name
    for node in ast.parse(source()).body
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
]


@pytest.fixture
def users(transactional_db: None) -> Iterator[None]:
    """Give a table of users, and close the connection of the thread that coroutines use it in."""
    yield
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    with registry.isolated(empty=True):
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(source(), PAGE, "exec"), names)
        yield names


@pytest.mark.parametrize("test", TESTS)
async def test_tests_on_the_page_pass(page: dict[str, Any], test: str) -> None:
    function = page[test]
    if inspect.iscoroutinefunction(function):
        await function()
    else:  # it opens a loop of its own
        await asyncio.to_thread(function)


def test_there_are_tests_on_the_page() -> None:
    assert len(TESTS) >= 4
    assert re.search(r"^```python", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_each_agent_on_the_page_can_be_registered(page: dict[str, Any]) -> None:
    assert registry.problems() == []
    assert {definition.name for definition in registry.all()} == {
        "collect", "describe", "digest", "greet", "greet_all", "greet_first",
        "greet_first_to_answer", "poll", "list_names", "measure", "primes", "reindex", "rename",
        "translate",
        "weather",
    }  # fmt: skip


async def test_a_program_measures_a_text(page: dict[str, Any]) -> None:
    assert (await _to_end(page["measure"], {"text": "é!"})).result == 3


async def test_primes_stop_when_they_look(page: dict[str, Any]) -> None:
    result = await _to_end(page["primes"], {"below": 20})

    assert result.result == [2, 3, 5, 7, 11, 13, 17, 19]


@pytest.mark.usefixtures("users")
def test_all_users_are_renamed(page: dict[str, Any]) -> None:
    User.objects.create_user("ada")

    result = run(page["rename"], {"names": {"ada": "grace"}})

    assert result.result == 1
    assert User.objects.get().username == "grace"


@pytest.mark.usefixtures("users")
def test_a_stop_between_two_names_renames_none(
    page: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    User.objects.create_user("ada")
    asked = iter([False, True])

    def check() -> None:
        if next(asked):
            token = current_token()
            assert token is not None
            token.request()
        check_should_stop()

    monkeypatch.setitem(page, "check_should_stop", check)

    result = run(page["rename"], {"names": {"ada": "grace", "bo": "eve"}})

    assert result.status == "stopped"
    assert User.objects.get().username == "ada"


@pytest.mark.usefixtures("users")
def test_users_are_described(page: dict[str, Any]) -> None:
    User.objects.create_user("ada")

    result = run(page["describe"], model=ScriptedModel("mathematician"))

    assert result.result == 1
    assert User.objects.get().last_name == "mathematician"


async def test_the_slower_greetings_are_stopped(page: dict[str, Any]) -> None:
    async def reply(messages: list[dict[str, Any]]) -> str:
        if "Grace" in messages[-1]["content"]:
            await asyncio.wait_for(asked.wait(), 5)
            await asyncio.sleep(0)
        return "Good morning"

    asked = asyncio.Event()
    model = ScriptedModel(reply)
    agent = page["greet_first_to_answer"]
    async with running(agent, {"names": ["Ada", "Grace"]}, model=model) as run:
        slow = await run.child(count=2)
        await slow.until("stop_requested")
        asked.set()
        result = await run.result()

    assert result.result == "Good morning"
    assert (await slow.result()).status in ("stopped", "success")


async def test_all_are_greeted_at_the_same_time(page: dict[str, Any]) -> None:
    both = asyncio.Barrier(2)

    async def reply(messages: object) -> str:
        await both.wait()
        return "Hello!"

    async with running(
        page["greet_all"], {"names": ["Ada", "Bo"]}, model=ScriptedModel(reply)
    ) as run:
        result = await run.result()

    assert result.result == ["Hello!", "Hello!"]
    assert [child.agent for child in run.children] == ["greet", "greet"]


async def test_a_failed_greeting_is_told(page: dict[str, Any]) -> None:
    result = await _to_end(
        page["greet_all"], {"names": ["Ada"]}, model=ScriptedModel([ValueError("no voice")])
    )

    assert result.result == ["Ada was not greeted: greet failed: no voice"]


async def test_an_error_has_its_own_code(page: dict[str, Any]) -> None:
    result = await _to_end(page["greet_first"], {"names": []})

    assert result.error is not None
    assert result.error["code"] == "nothing_to_greet"


async def test_a_client_of_ones_own_is_guarded(
    page: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mock = httpx.MockTransport(lambda request: httpx.Response(200, text=request.url.path))
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda: mock)

    result = await _to_end(page["weather"], {"city": "Bern"})

    assert result.result == "/Bern"
    [request] = [event.data for event in result.events if event.type == "http"]
    assert request["label"] == "GET wttr.in"


async def _to_end(agent: Any, input: dict[str, Any], **options: Any) -> Any:
    async with running(agent, input, **options) as run:
        return await run.result()


def test_a_plain_test_needs_no_loop(page: dict[str, Any]) -> None:
    assert run(page["greet"], {"name": "Ada"}).status == "success"


def test_the_digest_ends_when_little_time_is_left(page: dict[str, Any]) -> None:
    model = ScriptedModel("Short.")
    result = run(page["digest"], {"pages": ["one", "two"]}, model=model)
    assert (result.status, result.result) == ("success", ["Short.", "Short."])
    options = registry.get("digest").options
    assert (options.limits.deadline_seconds, options.limits.call_seconds) == (300, 30)
