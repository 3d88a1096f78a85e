"""The stand-in speaks the protocol, and what it says reads acceptably."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError

from agents.tools.llm.extract import extract_summary
from agents.tools.llm.stand_in import StandIn

REEF = """The Great Barrier Reef

The Great Barrier Reef is the world's largest coral reef system, composed of over 2,900 individual
reefs and 900 islands. It stretches for over 2,300 kilometres off the coast of Queensland. The reef
can be seen from outer space and is the world's biggest structure made by living organisms. This
reef structure is built by billions of tiny organisms, known as coral polyps. Dr. Smith was there.

Threats

Climate change, pollution and fishing are the primary threats to the health of this reef system.
According to a study published in 2012, the reef has lost more than half of its coral cover since
1985. Bleached corals are more likely to die from disease. He had lunch afterwards.
"""


def client(speed: float = math.inf) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url="http://stand-in.invalid/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=StandIn(speed)),
    )


def messages(text: str, system: str = "") -> Any:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


async def test_the_official_sdk_understands_its_plain_reply() -> None:
    reply = await client().chat.completions.create(model="m", messages=messages(REEF))
    assert reply.object == "chat.completion"
    assert reply.model == "stand-in"
    (choice,) = reply.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content is not None
    assert choice.message.content.startswith("The Great Barrier Reef is the world's largest")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@pytest.mark.parametrize("include_usage", [True, False])
async def test_the_official_sdk_understands_its_stream(include_usage: bool) -> None:
    plain = await client().chat.completions.create(model="m", messages=messages(REEF))
    stream = await client().chat.completions.create(
        model="m",
        messages=messages(REEF),
        stream=True,
        stream_options={"include_usage": include_usage},
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert usages == ([plain.usage] if include_usage else [])


async def test_a_stream_ends_with_done() -> None:
    body = {"model": "m", "messages": messages("Hello."), "stream": True}
    async with httpx2.AsyncClient(transport=StandIn(math.inf)) as http:
        answer = await http.post("http://x.invalid/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        ({"messages": messages("x")}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["x"]}, "messages"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages"),
        ({"model": "m", "messages": [{"role": "user", "content": 3}]}, "messages"),
        ({"model": "m", "messages": messages("x"), "max_tokens": 0}, "max_tokens"),
        ({"model": "m", "messages": messages("x"), "max_tokens": "1"}, "max_tokens"),
    ],
)
async def test_what_is_no_request_is_refused_as_the_protocol_says(body: Any, param: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx2.AsyncClient(transport=StandIn(math.inf)) as http:
        answer = await http.post("http://x.invalid/v1/chat/completions", content=content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


async def test_the_sdk_raises_what_it_raises_for_a_real_endpoint() -> None:
    with pytest.raises(BadRequestError, match="messages"):
        await client().chat.completions.create(model="m", messages=[])
    assert [model.id async for model in client().models.list()] == ["stand-in"]
    async with httpx2.AsyncClient(transport=StandIn(math.inf)) as http:
        assert (await http.get("http://x.invalid/v1/elsewhere")).status_code == 404


async def said(text: str, system: str = "", **more: Any) -> str:
    reply = await client().chat.completions.create(
        model="m", messages=messages(text, system), **more
    )
    return reply.choices[0].message.content or ""


@pytest.mark.parametrize("words", [25, 45, 80])
async def test_it_is_about_as_long_as_asked(words: int) -> None:
    answer = await said(REEF, f"Summarise the document in at most {words} words.")
    assert words / 2 < len(answer.split()) <= words
    embedded = await said(f"Summarise this in about {words} words:\n\n{REEF}")
    assert embedded == answer
    tagged = await said(f"<document>{REEF}</document> Use at most {words} words.")
    assert tagged == answer


async def test_half_the_length_is_half_the_length() -> None:
    answer = await said(REEF, "Rewrite these notes in half their length.")
    assert 0.3 < len(answer.split()) / len(REEF.split()) <= 0.5


async def test_max_tokens_cuts_and_says_so() -> None:
    reply = await client().chat.completions.create(
        model="m", messages=messages(REEF), max_tokens=10
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 10


async def test_it_speaks_at_a_human_pace_and_faster_when_told_so() -> None:
    started = time.monotonic()
    answer = await said_at(speed=10.0)
    took = time.monotonic() - started
    expected = len(answer.split()) / 20 / 10
    assert expected <= took < expected + 1


async def test_it_reads_a_prompt_before_it_answers() -> None:
    """A document that repeats itself has a short summary, and is no instant success."""
    started = time.monotonic()
    stream = await client(10.0).chat.completions.create(
        model="m", messages=messages("The harbour was quiet. " * 600), stream=True
    )
    async for _ in stream:
        break
    assert time.monotonic() - started >= 0.2
    await stream.close()


async def said_at(speed: float) -> str:
    stream = await client(speed).chat.completions.create(
        model="m", messages=messages(REEF), stream=True
    )
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


@pytest.mark.parametrize("speed", [0, -1, math.nan])
def test_a_speed_is_positive(speed: float) -> None:
    with pytest.raises(ValueError):
        StandIn(speed)


async def test_with_nothing_to_read_it_says_so() -> None:
    assert "stand-in" in await said(" ... ")
    assert "stand-in" in await said_without_a_user()


async def said_without_a_user() -> str:
    reply = await client().chat.completions.create(
        model="m", messages=[{"role": "system", "content": "Be brief."}]
    )
    return reply.choices[0].message.content or ""


async def test_parts_of_content_are_read() -> None:
    parts: Any = [{"type": "text", "text": REEF}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert await said(parts) == await said(REEF)


async def test_a_large_document_does_not_hold_up_the_loop() -> None:
    numbered = "\n\n".join(f"Part {n}. {REEF}" for n in range(1500))
    reading = asyncio.create_task(said(numbered))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert reading.result()
    assert turns > 20  # one or two, if it were read on the loop


# --- sentences ------------------------------------------------------------------------------


def test_a_summary_takes_whole_sentences_in_their_order() -> None:
    summary = extract_summary(REEF, 80)
    flat = " ".join(REEF.split())
    places = [flat.find(part.strip()) for part in summary.split(". ")]
    assert -1 not in places
    assert places == sorted(places)
    assert "lunch" not in summary
    assert "Threats" not in summary
    assert summary == extract_summary(REEF, 80)


def test_what_was_said_is_not_said_again() -> None:
    text = "The harbour of Kiel is large and old. " * 5 + "Ferries leave the harbour every day."
    assert extract_summary(text, 100).count("Kiel") == 1


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("", ""),
        ("?!", ""),
        ("word", "word"),
        ("- one two\n- three four", "one two three four"),
        ("Mr. Smith met Dr. Jones in St. Ives. ", "Mr. Smith met Dr. Jones in St. Ives."),
        ("これは文です。もう一つの文です。", "これは文です。 もう一つの文です。"),
    ],
)
def test_odd_texts_have_a_summary_too(text: str, summary: str) -> None:
    assert extract_summary(text, 5) == summary
