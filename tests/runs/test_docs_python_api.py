"""The code in docs/python-api.md runs, and does what the page says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core import mail
from django.db import connections
from django.test import RequestFactory

import runs
from agents import Tools, agent, registry
from agents.exceptions import InvalidInput
from runs import exceptions, signals
from runs.models import RunRecord
from runs.signals import receivers, run_finished
from tests.support.journal import Journal, eventually
from tests.support.running import Gate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"
TEXT = PAGE.read_text(encoding="utf-8")


def _source() -> str:
    """Return the page's blocks as one module, each at its own line."""
    code, inside = [], False
    for line in TEXT.splitlines():
        is_fence = line.startswith("```")
        code.append(line if inside and not is_fence else "")
        if is_fence:
            inside = line == "```python"
    return "\n".join(code)


@pytest.fixture
def page(alice: User) -> Iterator[dict[str, Any]]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(_source(), PAGE, "exec"), names)
    yield names
    run_finished.disconnect(names["mail_result"])
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(autouse=True)
def summarise(gate: Gate) -> Iterator[None]:
    with registry.isolated(empty=True):

        @agent("summarise")
        async def summarise(tools: Tools, document: str) -> str:
            tools.log("reading")
            await gate.wait()
            tools.log("writing")
            return document.partition(".")[0]

        yield


@pytest.mark.usefixtures("worker")
def test_a_summary_is_waited_for(page: dict[str, Any], alice: User, gate: Gate) -> None:
    gate.open()

    assert page["summary_of"]("One. Two.", alice) == "One"
    assert RunRecord.objects.get().deadline_seconds == 120


@pytest.mark.usefixtures("worker")
def test_an_async_view_waits(page: dict[str, Any], alice: User, gate: Gate) -> None:
    gate.open()
    request = RequestFactory().post("/", {"document": "One. Two."})

    async def auser() -> User:
        return alice

    request.auser = auser  # type: ignore[method-assign, assignment]
    answer = asyncio.run(page["summarise"](request))

    assert json.loads(answer.content) == {"status": "success", "summary": "One"}


def test_a_run_starts_once_with_its_user(page: dict[str, Any]) -> None:
    run = page["register"]("carol")

    assert run.owner.get_username() == "carol"
    assert run.idempotency_key == f"welcome {run.owner_id}"


def test_many_are_started_and_what_is_refused_is_told(page: dict[str, Any], alice: User) -> None:
    started, errors = page["summarise_all"]({1: "One.", 2: 2}, alice)

    assert [RunRecord.objects.get().pk] == started
    assert [type(error) for error in errors] == [InvalidInput]


@pytest.mark.usefixtures("worker")
def test_a_stream_is_left_and_continued(
    page: dict[str, Any], alice: User, gate: Gate, log: Journal
) -> None:
    run = runs.start("summarise", {"document": "One. Two."}, owner=alice)

    lines, cursor = asyncio.run(page["first_lines"](run, 1))
    assert lines == ["reading"]
    gate.open()
    rest = [event["data"].get("message") for event in runs.stream(run, after=cursor)]
    assert rest == ["writing", None]


def test_an_order_is_cancelled(page: dict[str, Any], alice: User) -> None:
    for by in (None, alice):
        run = runs.start("summarise", {"document": "One."}, owner=alice)
        run = page["cancel_order"](run, by)
        assert (run.status, run.stop_via) == ("stopped", "api")
        assert run.stop_requester == (by and "alice")


@pytest.mark.usefixtures("worker")
def test_a_result_is_mailed(page: dict[str, Any], alice: User, gate: Gate) -> None:
    gate.open()
    alice.email = "alice@example.org"
    alice.save()
    runs.start("summarise", {"document": "One. Two."}, owner=alice)

    eventually(lambda: len(mail.outbox) == 1, "a mail was sent")
    assert (mail.outbox[0].to, mail.outbox[0].body) == (["alice@example.org"], "One")
    receivers._thread.submit(bool).result(10)


def test_the_page_names_all_functions_signals_and_errors() -> None:
    named = [name for name in runs.__all__ if name != "Stream"]
    missing = [name for name in (*named, *signals.__all__) if name not in TEXT]
    errors = [
        name
        for error in (InvalidInput, *_errors_of_the_services())
        if (name := error.__name__) not in TEXT
    ]
    assert not missing
    assert not errors


def _errors_of_the_services() -> list[type[Exception]]:
    internal = {"RunError", "LeaseLost", "ParentIsStopping", "RunIsStopping", "SignInRefused"}
    return [getattr(exceptions, name) for name in exceptions.__all__ if name not in internal]
