"""What a reader sees of a real worker's run: streamed text, and a stop while a call is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from agents import Tools, agent
from runs import wire
from runs.delivery import local_runs
from runs.models import RunEvent
from runs.web.feed import Hub, close_hub, get_hub
from runs.worker.worker import Worker
from tests.support.feeds import Client, Reader, in_database
from tests.support.llm_server import Answer, LLMServer
from tests.support.running import Start

WAIT_SECONDS = 30.0


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = get_hub()
    yield hub
    await close_hub()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def allow_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """These readers have no token in the database."""
    monkeypatch.setattr("runs.web.feed.rights.find_lost", lambda viewers: {})


@pytest.mark.usefixtures("allow_all")
async def test_streamed_text_is_coalesced_whole_and_stored_nowhere(
    llm_server: LLMServer, worker: Worker, start: Start, hub: Hub
) -> None:
    pieces = [f"piece {number} " for number in range(400)]
    llm_server.answer = Answer(pieces=pieces, pause=0.002)
    llm_server.hold()

    @agent("talker")
    async def talker(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "?"}])).text

    run = await in_database(start, "talker")
    reader = Reader(Client(), hub, run, "socket")
    await _until(lambda: reader.client.runs.get(str(run.pk), {}).get("in_flight"))
    started_at = asyncio.get_running_loop().time()
    llm_server.release()
    await _until(lambda: reader.client.is_ended)
    seconds = asyncio.get_running_loop().time() - started_at
    text = "".join(pieces)
    assert list(reader.client.texts.values()) == [text]
    texts = reader.client.types.count("text")
    assert 1 < texts <= 10 * seconds + 2
    # The last piece came before the event with the whole text.
    types = reader.client.types
    last_text = len(types) - types[::-1].index("text")
    assert types[last_text:].count("trace") >= 2
    stored = await in_database(lambda: list(RunEvent.objects.filter(run=run)))
    assert {event.type for event in stored} <= {
        *("agent_start", "llm_call", "agent_end"),
        "loop_blocked",  # on a busy machine
    }
    assert [e.data["text"] for e in stored if e.type == "llm_call"] == [text]
    fresh = await in_database(lambda: wire.run_as_dict(wire.get_for_wire(run.pk)))
    assert reader.client.runs[str(run.pk)] == fresh


@pytest.mark.usefixtures("allow_all")
async def test_a_reader_sees_the_acknowledgement_while_the_call_is_held(
    llm_server: LLMServer, worker: Worker, start: Start, stop: Any, hub: Hub, alice: User
) -> None:
    llm_server.hold()

    @agent("asker")
    async def asker(tools: Tools) -> None:
        while True:
            await tools.call_llm([{"role": "user", "content": "?"}])

    run = await in_database(start, "asker")
    reader = Reader(Client(), hub, run, "page")

    def shown() -> Any:
        return reader.client.runs.get(str(run.pk), {"in_flight": [], "stop": None})

    await _until(lambda: shown()["in_flight"])
    await in_database(stop, run)
    await _until(lambda: shown()["stop"] and shown()["stop"]["acknowledged_at"])
    assert shown()["status"] == "stopping"
    assert shown()["stop"]["observed_at"] is None
    assert shown()["in_flight"]
    llm_server.release()
    await _until(lambda: reader.client.is_ended)
    assert shown()["status"] == "stopped"
    assert shown()["stop"]["calls_started_after_acknowledgement"] == 0


@pytest.mark.usefixtures("allow_all")
async def test_a_reader_that_connects_during_an_answer_gets_its_first_part_once(
    llm_server: LLMServer, worker: Worker, start: Start, hub: Hub
) -> None:
    """A person who presses Run loads a page; the model does not wait for that."""
    pieces = ["Once upon ", "a time ", "there was ", "a run."]
    llm_server.answer = Answer(pieces=pieces)
    llm_server.hold("middle")

    @agent("teller")
    async def teller(tools: Tools) -> str:
        return (await tools.call_llm([{"role": "user", "content": "?"}])).text

    run = await in_database(start, "teller")

    def shown_text() -> str:
        entry = local_runs.get(run.pk)
        texts = entry.guard.trace.texts_after({}) if entry and entry.guard else {}
        return "".join(text for _, text in texts.values())

    await _until(shown_text)
    text_so_far = shown_text()
    assert 0 < len(text_so_far) < len("".join(pieces))
    reader = Reader(Client(), hub, run, "socket")
    await _until(lambda: list(reader.client.texts.values()) == [text_so_far])
    llm_server.release()
    await _until(lambda: reader.client.is_ended)
    assert list(reader.client.texts.values()) == ["".join(pieces)]
    await _until(lambda: local_runs.get(run.pk) is None)
