"""Bodies are unpacked piece by piece, within a bound, whatever their sender says."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agents.exceptions import AgentError, BodyRefused
from agents.tools.http import client as client_module
from agents.tools.http import decoding
from agents.tools.http.client import (
    Transports,
    close_clients,
    guarded_transport,
    open_client,
    open_sync_client,
)
from tests.support.agent_run import AgentRun, waiter
from tests.support.http_clients import LOOPBACK
from tests.support.page_server import PageServer

TEXT = b"Stop means stop. " * 10_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def packed(encoding: str | list[str], body: bytes, **headers: str) -> PageServer:
    return PageServer({"/": ({"Content-Encoding": encoding, **headers}, body)})


Get = Callable[..., Any]


@pytest.fixture(params=["async", "sync"])
async def get(request: pytest.FixtureRequest) -> Any:
    """``tools.http.get`` of both kinds of agents, within a run."""
    run, transports = AgentRun(), Transports(LOOPBACK)

    async def get(url: str, **options: Any) -> httpx.Response:
        if request.param == "async":
            client = open_client(run.guard, transports)
            return await run.task(client.get(url, **options))
        sync_client = open_sync_client(run.guard, transports, waiter())
        return await asyncio.to_thread(run.call, lambda: sync_client.get(url, **options))

    yield get
    await close_clients(run.guard)
    await transports.aclose()
    assert run.trace.in_flight() == []


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("GZIP", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("gzip", gzip.compress(TEXT) + b"garbage"),
        ("gzip", gzip.compress(TEXT)[:-8]),  # browsers read it without its trailer as well
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, 0)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("identity, gzip", gzip.compress(TEXT)),
        ("utf-8", TEXT),  # a mistake of servers
        ("", TEXT),
    ],
)
async def test_a_body_with_one_encoding_is_unpacked(get: Get, encoding: str, body: bytes) -> None:
    with packed(encoding, body) as server:
        answer = await get(server.url)

    assert answer.content == TEXT
    assert "accept-encoding: gzip, deflate\n" in server.requests[0].lower()


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT)), "2 encodings"),
        (["gzip", "gzip"], gzip.compress(gzip.compress(TEXT)), "2 encodings"),
        ("deflate, gzip", gzip.compress(zlib.compress(TEXT)), "2 encodings"),
        ("br, gzip", gzip.compress(TEXT), "2 encodings"),
        ("gzip, identity, gzip", gzip.compress(gzip.compress(TEXT)), "2 encodings"),
        ("br", b"\x0b\x02\x80stop\x03", "the encoding br"),
        ("zstd", b"\x28\xb5\x2f\xfd", "the encoding zstd"),
        ("gzip", b"no gzip", "can't be unpacked"),
        ("deflate", b"\xff\xff\xff", "can't be unpacked"),
    ],
)
async def test_any_other_body_is_refused(
    get: Get, encoding: str | list[str], body: bytes, message: str
) -> None:
    with packed(encoding, body) as server, pytest.raises(BodyRefused, match=message) as caught:
        await get(server.url)

    assert isinstance(caught.value, AgentError)
    assert isinstance(caught.value, httpx.DecodingError)
    assert caught.value.code == "body_refused"


async def test_an_answer_without_a_body_may_name_any_encoding(get: Get) -> None:
    with packed("br, gzip", b"") as server:
        assert (await get(server.url)).content == b""


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"0" * 3_000_000)),
        ("gzip", gzip.compress(b"0" * 600_000) * 5),
        ("deflate", raw_deflate(b"0" * 3_000_000)),
        ("identity", b"0" * 3_000_000),
    ],
)
async def test_unpacked_bytes_count(
    get: Get, monkeypatch: pytest.MonkeyPatch, encoding: str, body: bytes
) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 2_000_000)
    with packed(encoding, body) as server, pytest.raises(BodyRefused, match="2,000,000 bytes"):
        await get(server.url)


async def test_a_request_may_ask_for_more(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 2_000_000)
    with packed("gzip", gzip.compress(b"0" * 3_000_000)) as server:
        for limit in (None, 3_000_000):
            answer = await get(server.url, extensions={"max_body_bytes": limit})
            assert len(answer.content) == 3_000_000


async def test_the_wrapper_has_a_bound_of_its_own() -> None:
    run = AgentRun()
    transport = guarded_transport(httpx.AsyncHTTPTransport(), max_body_bytes=1_000)
    with packed("gzip", gzip.compress(b"0" * 1_001)) as server:
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(BodyRefused, match="more than 1,000 bytes"):
                await run.task(client.get(server.url))
            with pytest.raises(BodyRefused):  # outside of any run as well
                await client.get(server.url)
    assert run.only("http")["error"]["type"] == "BodyRefused"


async def test_an_event_stream_has_no_bound(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 10)
    with PageServer({"/": ({"Content-Type": "text/event-stream"}, b"data: x\n\n" * 9)}) as server:
        assert len((await get(server.url)).content) == 81


@pytest.mark.parametrize("label", ["zip", "bz2", "punycode", "utf-7", "unknown", "hex"])
async def test_no_codec_of_python_s_is_taken_from_a_label(get: Get, label: str) -> None:
    """httpx would unpack the body by the codec "zip", without a bound."""
    headers = {"Content-Type": f"text/plain; charset={label}"}
    with PageServer({"/": (headers, zlib.compress(b"0" * 100))}) as server:
        answer = await get(server.url)

    assert "\ufffd" in answer.text


async def test_text_is_decoded_by_its_label_as_in_a_browser(get: Get) -> None:
    with PageServer({"/": ({"Content-Type": "text/plain; charset=latin1"}, b"\x80")}) as server:
        assert (await get(server.url)).text == "€"


async def test_what_grows_a_lot_is_unpacked_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    unpack = decoding._Unpacker.unpack

    def noting(self: Any, chunk: bytes, most: int) -> bytes:
        piece = unpack(self, chunk, most)
        assert len(piece) <= most
        seen.append((most, threading.current_thread().name.startswith("agents-unpacking")))
        return piece

    monkeypatch.setattr(decoding._Unpacker, "unpack", noting)
    run, transports = AgentRun(), Transports(LOOPBACK)
    client = open_client(run.guard, transports)
    with packed("gzip", gzip.compress(b"0" * 5_000_000)) as server:
        assert len((await run.task(client.get(server.url))).content) == 5_000_000
    await close_clients(run.guard)
    await transports.aclose()

    assert set(seen) == {
        (decoding.FIRST_PIECE_BYTES, False),
        (decoding.PIECE_BYTES, True),
    }
