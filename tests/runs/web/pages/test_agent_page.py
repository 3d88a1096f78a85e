"""An agent's page as the server sends it: for whom, what is on it, what the form begins with."""

from __future__ import annotations

import html
import json
import re
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pydantic import Field

from agents import Tools, agent
from runs.actions import starting
from runs.wording.run import STAND_IN_NOTE

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
PLAIN_RUN = {"text": "hello"}


@pytest.fixture(autouse=True)
def agents_here(isolated_agents: None) -> None:
    @agent("echo", title="Say it again")
    async def echo(tools: Tools, text: str, times: int = 1) -> str:
        """Say what ``text`` says.

        More than once,
        if wanted.

        - loudly
        - or ``softly``,
          perhaps

        Args:
            text: not for this page.
        """
        return text * times

    @agent("other")
    async def other(tools: Tools, text: str = "") -> str:
        return text


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def _data(response: Any) -> dict[str, Any]:
    """Read what the page hands to its script."""
    found = re.findall(
        r'<script id="agent-data" type="application/json">(.*?)</script>',
        response.content.decode(),
        re.DOTALL,
    )
    assert len(found) == 1
    return dict(json.loads(found[0]))


def _main(response: Any) -> str:
    text = response.content.decode()
    return text[text.index("<main") : text.index("</main>")]


def test_one_who_is_not_signed_in_is_led_to_the_sign_in(client: Client, db: None) -> None:
    response = client.get("/app/agents/echo/")
    assert response.status_code == 302
    assert response["Location"] == "/accounts/login/?next=/app/agents/echo/"


def test_an_unknown_agent_is_a_404(alices: Client) -> None:
    assert alices.get("/app/agents/nobody/").status_code == 404


def test_only_safe_methods_are_answered(alices: Client) -> None:
    assert alices.post("/app/agents/echo/").status_code == 405


def test_the_page_says_what_the_agent_does(alices: Client) -> None:
    page = _main(alices.get("/app/agents/echo/"))
    assert re.search(r"<h1[^>]*>Say it again</h1>", page)
    assert "<p>Say what <code>text</code> says.</p>" in page
    assert "<p>More than once, if wanted.</p>" in page
    assert "<ul><li>loudly</li><li>or <code>softly</code>, perhaps</li></ul>" in page
    assert "not for this page" not in page


def test_stop_stands_beside_run_and_has_nothing_to_stop(alices: Client) -> None:
    page = _main(alices.get("/app/agents/echo/"))
    run, stop = re.findall(r"<button.*?</button>", page, re.DOTALL)
    assert 'form="agent-form"' in run
    assert 'type="submit"' in run
    assert " disabled " in stop
    assert 'title="Nothing is in flight."' in stop


def test_the_form_is_made_from_the_schema(alices: Client, options: Callable[..., None]) -> None:
    options(MAX_INPUT_BYTES=12345)
    data = _data(alices.get("/app/agents/echo/"))
    assert data["agent"] == "echo"
    assert data["schema"]["required"] == ["text"]
    assert data["schema"]["properties"]["times"]["default"] == 1
    assert data["input"] is None
    assert data["max_bytes"] == 12345
    assert data["addresses"]["start"] == "/runs"
    assert data["addresses"]["run"] == "/app/runs/{id}/"


def test_a_stand_in_is_admitted(alices: Client, options: Callable[..., None]) -> None:
    assert str(STAND_IN_NOTE) in _main(alices.get("/app/agents/echo/"))
    options(LLM={"BASE_URL": "http://127.0.0.1:9/v1", "API_KEY": "", "MODEL": "llama3"})
    assert str(STAND_IN_NOTE) not in _main(alices.get("/app/agents/echo/"))


def test_a_hostile_agent_is_shown_as_text(alices: Client) -> None:
    @agent("hostile", title=HOSTILE, description=f"{HOSTILE}\n\n- ``{HOSTILE}``")
    async def hostile(
        tools: Tools, text: Annotated[str, Field(title=HOSTILE, description=HOSTILE)] = HOSTILE
    ) -> str:
        return text

    response = alices.get("/app/agents/hostile/")
    page = response.content.decode()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert f"<code>{html.escape(HOSTILE)}</code>" in page
    described = _data(response)["schema"]["properties"]["text"]
    assert described["default"] == described["title"] == described["description"] == HOSTILE


# Begun from a run.


def test_a_run_fills_the_form_with_its_input(alices: Client, alice: User) -> None:
    input = {"text": f"{HOSTILE} \u2028 ü", "times": 3}
    run, _ = starting.start_run("echo", input, owner=alice)
    response = alices.get(f"/app/agents/echo/?from={run.pk}")
    assert _data(response)["input"] == input
    assert _data(response)["source"] == str(run.pk)
    assert f'href="/app/runs/{run.pk}/"' in _main(response)
    assert "<script>alert" not in response.content.decode()


@pytest.mark.parametrize("source", ["nonsense", "", str(uuid.UUID(int=7)), "0" * 500])
def test_a_run_that_is_not_there_is_left_aside_with_a_word(alices: Client, source: str) -> None:
    response = alices.get("/app/agents/echo/", {"from": source})
    assert response.status_code == 200
    assert _data(response)["input"] is None
    assert "The form starts with its defaults." in _main(response)


def test_without_a_run_to_begin_with_nothing_is_said(alices: Client) -> None:
    assert "starts with its defaults" not in _main(alices.get("/app/agents/echo/"))


def test_a_run_of_another_agent_is_left_aside(alices: Client, alice: User) -> None:
    run, _ = starting.start_run("other", PLAIN_RUN, owner=alice)
    response = alices.get(f"/app/agents/echo/?from={run.pk}")
    assert _data(response)["input"] is None
    assert "The form starts with its defaults." in _main(response)


def test_somebody_elses_run_is_as_good_as_none(alices: Client, bob: User) -> None:
    run, _ = starting.start_run("echo", PLAIN_RUN, owner=bob)
    response = alices.get(f"/app/agents/echo/?from={run.pk}")
    assert _data(response)["input"] is None
    assert str(run.pk) not in _main(response)
    assert "The form starts with its defaults." in _main(response)


def test_one_who_may_see_all_runs_may_begin_from_any(
    client: Client, alice: User, operator: User
) -> None:
    run, _ = starting.start_run("echo", PLAIN_RUN, owner=alice)
    client.force_login(operator)
    assert _data(client.get(f"/app/agents/echo/?from={run.pk}"))["input"] == PLAIN_RUN
