"""Small bodies and documents that are made to take gigabytes, or minutes of all agents."""

from __future__ import annotations

import asyncio
import gzip
import resource
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents import AgentStopped
from agents.exceptions import BodyRefused, DocumentError, LLMError
from agents.samples.documents import read_document
from agents.tools.confined import calls
from agents.tools.http.client import Transports, close_clients, open_client, open_sync_client
from agents.tools.llm.client import Model, call_llm
from tests.support.agent_run import AgentRun, waiter, within
from tests.support.http_clients import LOOPBACK
from tests.support.page_server import PageServer
from tests.support.pdfs import as_data_url, make_pdf, slow_pdf

MEGABYTE = 1024 * 1024


def packed_zeros(megabytes: int) -> bytes:
    """Return so many MB in the form of bare deflate: one kB for each, and made in no time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes


DEFLATED = packed_zeros(1_000)
GZIPPED = b"\x1f\x8b\x08" + bytes(6) + b"\x03" + DEFLATED


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@asynccontextmanager
async def loop_that_stays_responsive(seconds: float = 0.5) -> AsyncIterator[None]:
    """Fail if the loop could not run another task for that long."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    beating = asyncio.ensure_future(beat())
    await asyncio.sleep(0.02)
    yield
    beating.cancel()
    assert longest < seconds, f"another agent had to wait for {longest:.2f} s"


@pytest.mark.parametrize("kind", ["twice", "once", "deflate", "codec"])
async def test_no_body_takes_the_memory_or_the_loop(kind: str) -> None:
    """Each is of 1 MB or less, and unpacks to 1 GB."""
    headers, body = {
        "twice": ({"Content-Encoding": "gzip, gzip"}, gzip.compress(GZIPPED)),
        "once": ({"Content-Encoding": "gzip"}, GZIPPED),
        "deflate": ({"Content-Encoding": "deflate"}, DEFLATED),
        "codec": ({"Content-Type": "text/plain; charset=zip"}, b"\x78\xda" + DEFLATED),
    }[kind]
    run, transports = AgentRun(), Transports(LOOPBACK)
    client = open_client(run.guard, transports)
    sync_client = open_sync_client(run.guard, transports, waiter())
    before = peak_bytes()

    async def text(url: str) -> str:
        return (await client.get(url)).text

    with PageServer({"/": (headers, body)}) as server:
        async with loop_that_stays_responsive():
            ends = await asyncio.gather(
                *(run.task(text(server.url)) for _ in range(3)),
                asyncio.to_thread(run.call, lambda: sync_client.get(server.url).text),
                return_exceptions=True,
            )
    await close_clients(run.guard)
    await transports.aclose()

    if kind == "codec":
        assert all(isinstance(end, str) for end in ends)
    else:
        assert {type(end) for end in ends} == {BodyRefused}
    assert peak_bytes() - before < 500 * MEGABYTE  # four bodies of 50 MB, and their pieces


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
async def test_no_reply_of_a_model_takes_the_memory_or_the_loop(encoding: str) -> None:
    run = AgentRun()
    answer = ({"Content-Type": "application/json", "Content-Encoding": encoding}, GZIPPED)
    with _model_server(answer) as server:
        model = Model(base_url=f"{server.url}/v1", default_model="m", max_retries=0)
        before = peak_bytes()
        async with loop_that_stays_responsive():
            with pytest.raises(LLMError, match=r"2 encodings|more than (50,000,000 bytes|16 MiB)"):
                await run.task(call_llm(run.guard, model, [{"role": "user", "content": "x"}]))
        await model.aclose()
    assert peak_bytes() - before < 200 * MEGABYTE


def _model_server(answer: Any) -> PageServer:
    return PageServer({"/v1/chat/completions": answer})


async def test_one_owner_s_documents_do_not_delay_another_owner() -> None:
    """Eight documents of 7 kB would each keep a parser busy for minutes."""
    document = as_data_url(slow_pdf())
    assert len(document) < 20_000
    attacker, other = AgentRun(), AgentRun()
    attacker.guard.owner, other.guard.owner = "attacker", "other"
    bombs = [attacker.task(read_document(document)) for _ in range(8)]
    await asyncio.sleep(0)

    async with loop_that_stays_responsive(1.0):
        for _ in range(2):
            text = await within(5, other.task(read_document(as_data_url(make_pdf("Mine.")))))
            assert text == "Mine."

    started_at = time.monotonic()
    attacker.stop()
    ends = await within(5, asyncio.gather(*bombs, return_exceptions=True))
    assert {type(end) for end in ends} == {AgentStopped}
    assert time.monotonic() - started_at < 2


@pytest.mark.parametrize("unit", [b"<p>", b"<a ", b"<!--", b"&#x41;", b"<script>", b"<b></b>"])
async def test_a_hostile_page_delays_no_other_run(
    unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = b"data:text/html," + unit.replace(b"#", b"%23") * (300_000 // len(unit))
    run = AgentRun()

    async with loop_that_stays_responsive():
        try:
            await within(10, run.task(read_document(url.decode())))
        except DocumentError as error:
            assert "is empty" in str(error)  # noqa: PT017 - markup alone is no text


async def test_a_document_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CPU_SECONDS", 1)

    with pytest.raises(DocumentError, match="takes more than"):
        await within(10, read_document(as_data_url(slow_pdf())))
