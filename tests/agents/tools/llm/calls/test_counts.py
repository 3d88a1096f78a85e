"""Counts of tokens that an endpoint reports: believed if they can be true, else estimated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tools.llm.client import Model, TokenUsage
from agents.tools.llm.usage import MOST_TOKENS, UsageReports, tokens_of
from agents.trace import Trace
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import ASK, ask
from tests.support.llm_server import TEXT, Answer, LLMServer

GIVEN, SAID = tokens_of(len(ASK[0]["content"])), tokens_of(len(TEXT))
ESTIMATE = TokenUsage(GIVEN, SAID, estimated=True)


def counts(given: Any, said: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": given, "completion_tokens": said, **more}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (counts(21, 13), TokenUsage(21, 13)),
        (counts(21, 13, total_tokens=None), TokenUsage(21, 13)),
        (counts(21, 13, total_tokens=99), TokenUsage(21, 13)),  # Gemini's thoughts are in it alone
        (counts(21, 13, total_tokens="many"), TokenUsage(21, 13)),
        ({"input_tokens": 21, "output_tokens": 13}, TokenUsage(21, 13)),
        (counts(-35, 13), TokenUsage(GIVEN, 13, True)),
        (counts(1151, -35, total_tokens=1116), TokenUsage(1151, SAID, True)),
        (counts(None, 13), TokenUsage(GIVEN, 13, True)),
        (counts(21, None), TokenUsage(21, SAID, True)),
        (counts("21", 13), TokenUsage(GIVEN, 13, True)),
        (counts(21.0, 13), TokenUsage(GIVEN, 13, True)),
        (counts(21, 13.5), TokenUsage(21, SAID, True)),
        (counts(True, 13), TokenUsage(GIVEN, 13, True)),
        (counts(21, False), TokenUsage(21, SAID, True)),
        (counts(float("nan"), float("inf")), ESTIMATE),
        (counts(2**63, 2**64), ESTIMATE),
        (counts(2**63 - 1, 10**300), ESTIMATE),
        (counts(MOST_TOKENS + 1, 13), TokenUsage(GIVEN, 13, True)),
        (counts([21], {"n": 13}), ESTIMATE),
        (counts(21, 13, total_tokens=5), ESTIMATE),
        (counts(21, 13, total_tokens=-1), ESTIMATE),
        (counts(0, 0, total_tokens=0), ESTIMATE),
        (counts(21, 0), TokenUsage(21, SAID, True)),
        (counts(0, 13), TokenUsage(GIVEN, 13, True)),
        ({}, ESTIMATE),
        ([], ESTIMATE),
        ("21", ESTIMATE),
        (21, ESTIMATE),
        ({"prompt_tokens_details": {"cached_tokens": 5}}, ESTIMATE),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
async def test_odd_counts_are_estimated_and_flagged(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    usage: Any,
    expected: TokenUsage,
    plain: bool,
) -> None:
    choice = {"message": {"content": TEXT}, "finish_reason": "stop"}
    if plain:
        server.answer = Answer(body=json.dumps({"choices": [choice], "usage": usage}))
    else:
        server.answer = Answer(chunks=[{"choices": [choice]}, {"choices": [], "usage": usage}])
    reply = await within(5, ask(run, model))
    assert reply.usage == expected
    event = run.only("llm_call")
    assert (event["input_tokens"], event["output_tokens"]) == (
        expected.input_tokens,
        expected.output_tokens,
    )
    assert event["estimated"] is run.trace.usage.estimated is expected.estimated


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        # A running total with each chunk, or the same at several places.
        ([counts(21, 0), counts(21, 5), counts(21, 9), counts(21, 13)], TokenUsage(21, 13)),
        ([counts(21, 13), counts(21, 13)], TokenUsage(21, 13)),
        ([counts(0, 0), counts(0, 0), counts(21, 13)], TokenUsage(21, 13)),
        ([None, {}, counts(None, None), counts(21, 13), None], TokenUsage(21, 13)),
        ([counts(-35, -1), counts(21, 13)], TokenUsage(21, 13)),
        ([counts(21, 1), {"completion_tokens": 13}], TokenUsage(21, 13)),
        ([counts(21, 13, total_tokens=5), counts(21, 13, total_tokens=34)], TokenUsage(21, 13)),
        # In parts.
        ([{"prompt_tokens": 21}, {"completion_tokens": 13}], TokenUsage(21, 13)),
        ([counts(21, 0), counts(0, 13)], TokenUsage(21, 13)),
        ([counts(21, 13), counts(0, 0)], TokenUsage(21, 13)),
        ([counts(21, 4), counts(0, 4), counts(0, 5)], TokenUsage(21, 13, True)),
        # A running total that ends with nonsense.
        ([counts(21, 5), counts(21, -1)], TokenUsage(21, SAID, True)),
        ([counts(21, 13), counts("x", 13)], TokenUsage(GIVEN, 13, True)),
    ],
)
@pytest.mark.parametrize("place", ["usage", "x_groq", "choice"])
async def test_reports_in_several_chunks_are_totals_or_parts(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    reports: list[Any],
    expected: TokenUsage,
    place: str,
) -> None:
    size = len(TEXT) // len(reports)
    cuts = [size * number for number in range(len(reports))] + [len(TEXT)]
    chunks = []
    for number, report in enumerate(reports):
        text = TEXT[cuts[number] : cuts[number + 1]]
        choice: dict[str, Any] = {"index": 0, "delta": {"content": text}}
        chunk: dict[str, Any] = {"choices": [choice]}
        if place == "choice":
            choice["usage"] = report
        elif place == "x_groq":
            chunk["x_groq"] = {"id": "req_1", "usage": report}
        else:
            chunk["usage"] = report
        chunks.append(chunk)
    server.answer = Answer(chunks=chunks)
    reply = await within(5, ask(run, model))
    assert (reply.text, reply.usage) == (TEXT, expected)
    assert run.trace.usage.estimated is expected.estimated


async def test_a_call_counts_together_with_its_event(
    server: LLMServer, model: Model, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a record that is written in between would count a call that its log does not have."""
    emit, counted = Trace.emit, list[int]()

    def watch(trace: Trace, type: str, *args: Any, **kwargs: Any) -> Any:
        counted.append(trace.usage.llm_calls)
        event = emit(trace, type, *args, **kwargs)
        counted.append(trace.usage.llm_calls)
        return event

    monkeypatch.setattr(Trace, "emit", watch)
    for _ in range(2):
        await within(5, ask(run, model))
    assert counted == [0, 1, 1, 2]


_ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 100),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)
_NAMES = st.sampled_from(
    ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "x")
)
_REPORTS = st.lists(st.one_of(_ANY, st.dictionaries(_NAMES, _ANY)), max_size=6)


@given(reports=_REPORTS, prompt=st.integers(0, 10**9), said=st.integers(0, 10**9))
def test_whatever_is_reported_the_counts_can_be_true(
    reports: list[Any], prompt: int, said: int
) -> None:
    usage = UsageReports()
    for report in reports:
        usage.add(report)
    result = usage.settle(prompt, said)
    for count, characters in ((result.input_tokens, prompt), (result.output_tokens, said)):
        assert type(count) is int
        assert 0 <= count <= MOST_TOKENS
        assert count > 0 or characters == 0
    assert type(result.estimated) is bool


@given(
    prompt=st.integers(1, 10**6),
    said=st.lists(st.integers(0, 10**6), min_size=1, max_size=8).map(sorted),
)
def test_a_running_total_is_its_last_value(prompt: int, said: list[int]) -> None:
    usage = UsageReports()
    for count in said:
        usage.add(counts(prompt, count, total_tokens=prompt + count))
    assert usage.settle(4, 0) == TokenUsage(prompt, said[-1])
