"""How a trace continues: in with a request, along with a run, out with requests."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import connection
from opentelemetry import trace

from agents import SyncTools, Tools, agent
from project.asgi import application
from runs.identity import tokens
from runs.models import RunInput
from runs.telemetry import traceparent
from tests.support.journal import Journal
from tests.support.llm_server import LLMServer
from tests.support.page_server import PageServer
from tests.support.running import Start
from tests.support.spans import Spans, attributes_of, is_below

TRACE = "0af7651916cd43dd8448eb211c80319c"
GIVEN = f"00-{TRACE}-b7ad6b7169203331-01"
ASK = [{"role": "user", "content": "What follows?"}]


def post(owner: User, name: str, *headers: tuple[str, str]) -> dict[str, Any]:
    """Start a run by ``POST /runs``, through the whole application."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            token = ("authorization", f"Token {tokens_of[owner]}")
            return await client.post(
                "/runs", json={"agent": name, "input": {}}, headers=[token, *headers]
            )

    tokens_of = {owner: tokens.create(owner)[0]}
    answer = asyncio.run(send())
    assert answer.status_code == 201, answer.text
    run: dict[str, Any] = answer.json()
    return run


def sent_to(server: PageServer) -> list[str]:
    """Return the traceparents of all requests that a server got."""
    return [
        value
        for request in server.requests
        for value in re.findall(r"(?i)^traceparent: (\S+)", request, re.MULTILINE)
    ]


@pytest.fixture
def pages() -> Any:
    with PageServer({"/": ({}, b"hello")}) as server:
        yield server


class TestInto:
    def test_a_request_by_the_api_reaches_what_the_agents_call(
        self,
        spans: Spans,
        llm_server: LLMServer,
        options: Any,
        hire: Callable[..., Any],
        alice: User,
        log: Journal,
        pages: PageServer,
    ) -> None:
        @agent("inner")
        async def inner(tools: Tools) -> str:
            await tools.http.get(pages.url)
            return (await tools.call_llm(ASK)).text

        @agent("outer")
        async def outer(tools: Tools) -> str:
            return str(await (await tools.agents.start("inner")))

        options(TRACEPARENT_HOSTS=["127.0.0.1"], HTTP={"ALLOW": ["127.0.0.1"]})
        hire()
        run = post(alice, "outer", ("traceparent", GIVEN))
        log.over(run["id"])
        (of_outer,) = spans.until("invoke_agent outer")
        (of_inner,) = spans.until("invoke_agent inner")
        assert of_outer.parent is not None
        assert f"{of_outer.parent.span_id:016x}" == GIVEN.split("-")[2]
        assert is_below(of_inner, of_outer)
        assert is_below(spans.named("execute_tool http")[0], of_inner)
        assert {f"{span.context.trace_id:032x}" for span in spans.all() if span.context} == {TRACE}
        assert of_inner.context is not None
        by_inner = traceparent.formatted(of_inner.context)
        assert sent_to(pages) == [by_inner]
        assert [request.headers["traceparent"] for request in llm_server.requests] == [by_inner]
        said = attributes_of(of_inner)
        assert (said["halting.run.root_id"], said["halting.run.parent_id"]) == (
            run["id"],
            run["id"],
        )

    def test_the_span_of_the_site_goes_before_the_header(
        self, spans: Spans, alice: User, hire: Callable[..., Any], log: Journal
    ) -> None:
        @agent("plain")
        async def plain(tools: Tools) -> None: ...

        hire()
        with trace.get_tracer("site").start_as_current_span("POST /runs") as request:
            run = post(alice, "plain", ("traceparent", GIVEN))
        log.over(run["id"])
        (span,) = spans.until("invoke_agent plain")
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id

    @pytest.mark.parametrize(
        ("headers", "stored"),
        [
            ([GIVEN], GIVEN),
            ([], None),
            ([GIVEN, GIVEN], None),
            ([GIVEN.upper()], None),
            ([f"{GIVEN}-more"], None),
            ([GIVEN.replace(TRACE, "0" * 32)], None),
            (["alice"], None),
        ],
    )
    def test_a_header_is_stored_with_the_run_if_it_is_valid(
        self, headers: list[str], stored: str | None, alice: User
    ) -> None:
        @agent("plain")
        async def plain(tools: Tools) -> None: ...

        run = post(alice, "plain", *[("traceparent", header) for header in headers])
        assert RunInput.objects.get(pk=run["id"]).traceparent == stored
        connection.close()

    def test_no_run_gets_the_header_of_another_request(self) -> None:
        def of_request(*headers: tuple[bytes, bytes]) -> str | None:
            traceparent.note_request(headers)
            return traceparent.current_traceparent()

        context = contextvars.copy_context()
        assert context.run(of_request, (b"traceparent", GIVEN.encode())) == GIVEN
        assert context.run(of_request, (b"accept", b"*/*")) is None


class TestOut:
    @pytest.mark.parametrize(
        ("hosts", "count"), [((), 0), (("localhost",), 0), (("127.0.0.0/8",), 1), (("*",), 1)]
    )
    @pytest.mark.parametrize("kind", ["async", "sync"])
    def test_only_named_hosts_get_it(
        self,
        kind: str,
        hosts: tuple[str, ...],
        count: int,
        spans: Spans,
        options: Any,
        hire: Callable[..., Any],
        start: Start,
        log: Journal,
        pages: PageServer,
    ) -> None:
        if kind == "async":

            @agent("visiting")
            async def visiting(tools: Tools) -> int:
                return (await tools.http.get(pages.url)).status_code

        else:

            @agent("visiting")
            def visiting_in_thread(tools: SyncTools) -> int:
                return tools.http.get(pages.url).status_code

        options(TRACEPARENT_HOSTS=hosts, HTTP={"ALLOW": ["127.0.0.1"]})
        hire()
        record = log.over(start("visiting"))
        assert record.result == 200
        context = spans.of_run(record).context
        assert context is not None
        assert sent_to(pages) == [traceparent.formatted(context)] * count

    def test_a_redirect_to_another_host_does_not_take_it_along(
        self,
        spans: Spans,
        options: Any,
        hire: Callable[..., Any],
        start: Start,
        log: Journal,
        pages: PageServer,
    ) -> None:
        with PageServer({"/": ({}, b"hello")}, host="127.0.0.2") as elsewhere:
            pages.pages["/there"] = ({":status": 302, "Location": f"{elsewhere.url}/"}, b"")
            elsewhere.pages["/back"] = ({":status": 302, "Location": f"{pages.url}/"}, b"")

            @agent("led")
            async def led(tools: Tools) -> None:
                await tools.http.get(f"{pages.url}/there", follow_redirects=True)
                await tools.http.get(f"{elsewhere.url}/back", follow_redirects=True)

            options(TRACEPARENT_HOSTS=["127.0.0.1"], HTTP={"ALLOW": ["127.0.0.0/8"]})
            hire()
            record = log.over(start("led"))
            assert record.error is None
            assert (len(pages.requests), len(elsewhere.requests)) == (2, 2)
            assert len(sent_to(pages)) == 2
            assert sent_to(elsewhere) == []

    @pytest.mark.parametrize("hosts", [(), ("127.0.0.1",)])
    def test_a_header_of_the_agents_own_stays(
        self,
        hosts: tuple[str, ...],
        spans: Spans,
        options: Any,
        hire: Callable[..., Any],
        start: Start,
        log: Journal,
        pages: PageServer,
    ) -> None:
        @agent("own")
        async def own(tools: Tools) -> None:
            await tools.http.get(pages.url, headers={"traceparent": GIVEN})

        options(TRACEPARENT_HOSTS=hosts, HTTP={"ALLOW": ["127.0.0.1"]})
        hire()
        log.over(start("own"))
        assert sent_to(pages) == [GIVEN]

    def test_a_process_that_does_not_trace_hands_on_what_it_was_given(
        self,
        options: Any,
        hire: Callable[..., Any],
        alice: User,
        log: Journal,
        pages: PageServer,
    ) -> None:
        @agent("inner")
        async def inner(tools: Tools) -> None:
            await tools.http.get(pages.url)

        @agent("outer")
        async def outer(tools: Tools) -> None:
            await tools.agents.call("inner")

        options(TRACEPARENT_HOSTS=["127.0.0.1"], HTTP={"ALLOW": ["127.0.0.1"]})
        hire()
        log.over(post(alice, "outer", ("traceparent", GIVEN))["id"])
        assert sent_to(pages) == [GIVEN]
