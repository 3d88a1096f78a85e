"""A model that only a proxy can reach, through a real proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agents.exceptions import AgentStopped, LLMError
from agents.tools.http import pools
from agents.tools.llm.client import Model
from agents.values import redaction
from tests.support.agent_run import AgentRun, within
from tests.support.forward_proxy import ForwardProxy, make_certificate
from tests.support.llm_calls import KEY, ask, busy_counts
from tests.support.llm_server import TEXT, Answer, LLMServer

PASSWORD = "p@ss: wörd/9"
QUOTED = "p%40ss%3A%20w%C3%B6rd%2F9"
URL = "http://model.internal/v1"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    redaction.forget_secrets()


@pytest.fixture
def proxy(server: LLMServer) -> Iterator[ForwardProxy]:
    with ForwardProxy({"model.internal": server.port}, "agent", PASSWORD) as proxy:
        yield proxy


@asynccontextmanager
async def reached_through(proxy_url: str, url: str = URL) -> AsyncIterator[Model]:
    model = Model(url, KEY, "m", proxy_url=proxy_url, max_retries=0)
    yield model
    await model.aclose()


async def test_a_model_is_reached_through_its_proxy(
    server: LLMServer, proxy: ForwardProxy, run: AgentRun
) -> None:
    async with reached_through(proxy.url(f"agent:{QUOTED}")) as model:
        assert (await within(5, ask(run, model))).text == TEXT
        assert busy_counts(model) == [0]
    assert proxy.requests == [("POST", f"{URL}/chat/completions")]
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("is_https_proxy", [False, True])
async def test_a_model_with_tls_is_reached_through_a_tunnel(
    run: AgentRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_https_proxy: bool
) -> None:
    serving, trusting = make_certificate(tmp_path)
    monkeypatch.setattr(pools, "shared_ssl_context", lambda: trusting)
    with LLMServer(serving) as server:
        hosts, tls = {"model.internal": server.port}, serving if is_https_proxy else None
        with ForwardProxy(hosts, "agent", PASSWORD, tls) as proxy:
            address = proxy.url(f"agent:{QUOTED}")
            async with reached_through(address, "https://model.internal/v1") as model:
                for _ in range(3):
                    assert (await within(5, ask(run, model))).text == TEXT
            assert proxy.requests == [("CONNECT", "model.internal:443")]
        assert server.opened_count == 1
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("url", [URL, "https://model.internal/v1"])
@pytest.mark.parametrize("pair", ["", "agent:wrong-password"])
async def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    server: LLMServer, proxy: ForwardProxy, run: AgentRun, url: str, pair: str
) -> None:
    async with reached_through(proxy.url(pair), url) as model:
        with pytest.raises(LLMError, match="407") as caught:
            await within(5, ask(run, model))
    assert "can't be reached through its proxy: the proxy answered 407" in str(caught.value)
    assert "wrong-password" not in f"{caught.value!r} {caught.value.__cause__!r} {run.sink.events}"
    assert (proxy.refused_count, server.request_count) == (1, 0)


async def test_a_proxy_that_is_not_there_is_an_error(run: AgentRun) -> None:
    async with reached_through("http://agent:s3cret-word@127.0.0.1:9") as model:
        with pytest.raises(LLMError, match="can't be reached through its proxy: ") as caught:
            await within(5, ask(run, model))
    assert "s3cret-word" not in f"{caught.value!r} {run.sink.events}"


async def test_the_environments_proxies_are_ignored(
    server: LLMServer, proxy: ForwardProxy, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")
    async with reached_through("", server.base_url) as model:
        assert (await within(5, ask(run, model))).text == TEXT
    async with reached_through(proxy.url(f"agent:{QUOTED}")) as model:
        assert (await within(5, ask(run, model))).text == TEXT
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("at", ["start", "middle"])
async def test_a_stop_through_a_proxy_lets_the_call_finish(
    server: LLMServer, proxy: ForwardProxy, run: AgentRun, at: str
) -> None:
    async with reached_through(proxy.url(f"agent:{QUOTED}")) as model:
        server.hold(at)
        call = ask(run, model)
        await server.until_requests(1)
        run.stop()
        server.release()
        assert (await within(5, call)).text == TEXT
        with pytest.raises(AgentStopped):
            await ask(run, model)
        assert busy_counts(model) == [0]
    assert server.request_count == 1


async def test_an_abort_through_a_proxy_closes_the_connections(
    server: LLMServer, proxy: ForwardProxy, run: AgentRun
) -> None:
    async with reached_through(proxy.url(f"agent:{QUOTED}")) as model:
        server.answer = Answer(text="word " * 2000, pause=0.005)
        call = ask(run, model)
        async with asyncio.timeout(5):
            while len(run.sink.texts) < 3:
                await asyncio.sleep(0.001)
        run.stop("abort")
        with suppress(AgentStopped):
            await within(2, call)
        assert run.only("llm_call")["outcome"] == "aborted"
        await server.until(lambda: server.open_count == 0, "the connections to be closed")
        assert busy_counts(model) == [0]


@pytest.mark.parametrize("form", [PASSWORD, QUOTED, "YWdlbnQ6cEBzczogd8O2cmQvOQ=="])
async def test_the_proxys_password_is_a_secret(
    proxy: ForwardProxy, run: AgentRun, form: str, server: LLMServer
) -> None:
    async with reached_through(proxy.url(f"agent:{QUOTED}")) as model:
        server.answer = Answer(pieces=[f"It is {form}!"])
        await within(5, ask(run, model))
    assert run.shown == "It is [redacted]!"
