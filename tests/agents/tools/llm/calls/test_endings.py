"""When a reply is whole, when it was cut, and what is an error.

docs/model-endpoints.md has the same as a table. Each answer comes from a real server.
"""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest

from agents.exceptions import LLMError
from agents.tools.llm import body, endpoint, reply
from agents.tools.llm.client import Model, TokenUsage
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import KEY, ask, busy_counts
from tests.support.llm_server import TEXT, Answer, LLMServer

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def said(text: str, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}


def event(data: Any) -> str:
    return f"data: {json.dumps(data)}\n\n"


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
END: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
COUNTS = {"choices": [], "usage": USAGE}
HI = [ROLE, said("Good "), said("day.")]
WHOLE = {
    "choices": [{"index": 0, "message": {"content": "Good day."}, "finish_reason": "stop"}],
    "usage": USAGE,
}
FAILURE = {"error": {"message": "overloaded", "code": 503}}
NO_ERROR = {"message": "", "type": "", "param": "", "code": None}
CUT_CHARACTER = "data: é".encode()[:-1]


def cut(*chunks: Any, **options: Any) -> Answer:
    return Answer(chunks=[*chunks], done=False, **options)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        # A reason to finish ends a reply, however the connection ends.
        (cut(*HI, END), "stop"),
        (cut(*HI, END, until_close=True), "stop"),
        (cut(*HI, END, drop_after=4), "stop"),
        (cut(*HI, END, reset=True), "stop"),
        (cut(*HI, END, reset=True, until_close=True), "stop"),
        (cut(*HI[:2], said("day.", "stop"), reset=True), "stop"),
        (cut(*HI, END, 'data: {"choices": [', until_close=True), "stop"),
        (cut(*HI, END, 'data: {"choices": [', reset=True), "stop"),
        (cut(*HI, END, CUT_CHARACTER, until_close=True), "stop"),
        (cut(*HI, END, "data: not JSON\n\n"), "stop"),
        (cut(*HI, END, COUNTS), "stop"),
        (cut(*HI, END, COUNTS, reset=True), "stop"),
        (cut(*HI, END, {"choices": []}, {"choices": None}, {}), "stop"),
        (cut(*HI, said("", "length")), "length"),
        (cut(*HI, said("", "content_filter")), "content_filter"),
        (cut(*HI, said("", "a_new_word")), "a_new_word"),
        # [DONE] does, with a reason or without.
        (Answer(chunks=[*HI]), None),
        (Answer(chunks=[*HI], reset=True), None),
        (Answer(chunks=[*HI, said("", "")]), None),
        (Answer(chunks=[*HI, said("", "null")]), None),
        (cut(*HI, "data: [DONE]"), None),
        (cut(*HI, "data:[DONE]\n"), None),
        (cut(*HI, "data: [DONE]\n\n", event(FAILURE)), None),
        # Usage alone does, at the end.
        (cut(*HI, COUNTS), None),
        (cut(*HI, COUNTS, reset=True), None),
        # A last event without its empty line is an event.
        (cut(*HI, event(END).rstrip()), "stop"),
        (cut(*HI, event(END).rstrip(), until_close=True), "stop"),
        # Several ways to write events.
        (cut("\ufeff", *HI, END), "stop"),
        (cut(*(event(chunk).replace("\n", "\r\n") for chunk in (*HI, END))), "stop"),
        (cut(*(event(chunk).replace("\n", "\r") for chunk in (*HI, END))), "stop"),
        (cut(*(event(chunk).replace("data: ", "data:") for chunk in (*HI, END))), "stop"),
        (cut(*(event(chunk).replace(": [", ": [\ndata: ") for chunk in (*HI, END))), "stop"),
        (cut(*(event(chunk).replace("\n\n", "\n") for chunk in (*HI, END)), "\n"), "stop"),
        (cut(*("event: message\nid: 1\nretry: 5\n" + event(c) for c in (*HI, END))), "stop"),
        (cut(*(json.dumps(chunk) + "\n" for chunk in (*HI, END))), "stop"),
        # Between the events: comments, heartbeats, pings, empty events.
        (cut(": OPENROUTER PROCESSING\n\n", *HI, ": OPENROUTER PROCESSING\n\n", END), "stop"),
        (cut(":\n", "\n\n", "data:\n\n", *HI, "event: ping\ndata: {}\n\n", END), "stop"),
        (cut(*HI, "event: ping\ndata: now\n\n", "data: ping\n\n", END), "stop"),
        (cut(*HI, {"type": "ping"}, "data: null\n\n", END), "stop"),
        # An error without a word, in each chunk or in a document, is none.
        (cut(*({**chunk, "error": NO_ERROR} for chunk in (*HI, END))), "stop"),
        (cut(*HI, {"choices": [{"delta": {"error": {}}, "error": NO_ERROR,
                                "finish_reason": "stop"}], "error": None}), "stop"),
        (Answer(body={**WHOLE, "error": NO_ERROR}), "stop"),
        # Several choices: one is read.
        (cut(*HI, {"choices": [{"index": 1, "delta": {"content": "Bye"}}]}, END), "stop"),
        (cut(ROLE, *({"choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"},
                                  *chunk["choices"]]} for chunk in HI[1:]), END), "stop"),
        (cut(*({"choices": [{**chunk["choices"][0], "index": index}]}
               for chunk in HI for index in (0, 1)), END), "stop"),
        # The number of the chunk in its place.
        (cut(*({"choices": [{**chunk["choices"][0], "index": number}]}
               for number, chunk in enumerate((*HI, END)))), "stop"),
        (cut(*({"choices": [{**chunk["choices"][0], "index": number}]}
               for number, chunk in enumerate((HI[1], HI[2], END), 1))), "stop"),
        # After a reason to finish more may come: some endpoints give one with each chunk.
        (Answer(chunks=[said("Good ", "stop"), said("day.", "stop")]), "stop"),
        (Answer(chunks=[said("Good ", "stop"), said("day.")]), "stop"),
        # Not in a delta.
        (cut({"choices": [{"message": {"content": "Good "}}]},
             {"choices": [{"message": {"content": "day."}, "finish_reason": "stop"}]}), "stop"),
        (cut(*HI, {"choices": [{"message": {"content": "Good day."}, "finish_reason": "stop"}]}),
         "stop"),
        (cut(HI[1], {"choices": [{"delta": {}, "message": {"content": "Good day."},
                                  "finish_reason": "stop"}]}), "stop"),
        (cut(*({"choices": [{"delta": {"content": t}, "message": {"content": t}}]}
               for t in ("Good ", "day.")), END), "stop"),
        (cut(*({"choices": [{"text": t}]} for t in ("Good ", "day.")), END), "stop"),
        (cut(*({"choices": [{"delta": {"content": [{"type": "text", "text": t}]}}]}
               for t in ("Good ", "day.")), END), "stop"),
        (cut(*({"choices": [{"delta": {"content": {"type": "text", "text": t}}}]}
               for t in ("Good ", "day.")), END), "stop"),
        (cut(*({"choices": [{"delta": {"content": [t]}}]} for t in ("Good ", "day.")), END),
         "stop"),
        # A document in place of a stream.
        (Answer(body=WHOLE), "stop"),
        (Answer(body="\ufeff" + json.dumps(WHOLE)), "stop"),
        (Answer(body="\n         \n\n" * 50 + json.dumps(WHOLE, indent=2)), "stop"),
        (Answer(body=json.dumps(WHOLE) + "\n\ndata: [DONE]\n\n"), "stop"),
        (Answer(body={"choices": [{"message": {"content": "Good day."}}]}), None),
        (Answer(body={"choices": [{"message": {"content": "Good day."}, "finish_reason": None}]}),
         None),
        (Answer(body={"choices": [{"text": "Good day.", "finish_reason": "stop"}]}), "stop"),
    ],
)  # fmt: skip
async def test_the_reply_is_whole(
    server: LLMServer, model: Model, run: AgentRun, answer: Answer, reason: str | None
) -> None:
    server.answer = answer
    reply = await within(5, ask(run, model))
    assert (reply.text, reply.finish_reason) == ("Good day.", reason)
    assert run.shown == "Good day."
    event = run.only("llm_call")
    assert (event["outcome"], event["text"]) == ("ok", "Good day.")
    has_usage = USAGE in (chunk.get("usage") for chunk in _objects(answer))
    assert reply.usage == TokenUsage(5, 2) if has_usage else reply.usage.estimated
    assert server.request_count == 1
    assert busy_counts(model) == [0]


def _objects(answer: Answer) -> list[dict[str, Any]]:
    if answer.chunks is not None:
        return [chunk for chunk in answer.chunks if isinstance(chunk, dict)]
    return [WHOLE] if "usage" in str(answer.body) else []


@pytest.mark.parametrize("label", ["text/plain", "application/json", "application/octet-stream",
                                   "text/event-stream", "TEXT/Event-Stream; charset=latin-1",
                                   "text/html", "nonsense", "", None])  # fmt: skip
@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_bytes_say_what_an_answer_is_and_its_label_does_not(
    server: LLMServer, model: Model, run: AgentRun, label: str | None, is_stream: bool
) -> None:
    text = "Grüße — 😀"
    headers = {"Content-Type": label}
    document = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    raw = json.dumps(document, ensure_ascii=False)
    server.answer = Answer(text=text, headers=headers) if is_stream else Answer(
        body=raw, headers=headers
    )  # fmt: skip
    assert (await within(5, ask(run, model))).text == text
    assert run.shown == text
    for stream in (True, False):
        assert (await within(5, ask(run, model, stream=stream))).text == text


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_events_may_be_cut_anywhere(
    server: LLMServer, model: Model, run: AgentRun, size: int
) -> None:
    raw = "".join(
        json_event.replace("\n", "\r\n")
        for text in ("Grü", "ße — ", "😀")
        for json_event in [f"data: {json.dumps(said(text), ensure_ascii=False)}\n\n"]
    )
    raw += event(END)
    data = raw.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    server.answer = cut(*pieces)
    assert (await within(5, ask(run, model))).text == run.shown == "Grüße — 😀"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        # The end came without a word that it is one.
        (cut(*HI), "the model's reply broke off"),
        (cut(*HI, until_close=True), "broke off"),
        (cut(*HI, reset=True), "broke off"),
        (cut(*HI, drop_after=3), "broke off"),
        (cut(*HI, said("", None)), "broke off"),
        (cut(*HI, said("", "")), "broke off"),
        (cut(*HI, event(END)[:30], until_close=True), "broke off"),
        (cut(*HI, CUT_CHARACTER, until_close=True), "broke off"),
        (cut(*HI, "upstream error: read ECONNRESET\n"), "broke off"),
        (cut(*HI, {"message": "worker gone"}), "broke off: worker gone"),
        # Usage with each chunk is no end.
        (cut(*({**chunk, "usage": USAGE} for chunk in HI)), "broke off"),
        (cut({"choices": [], "usage": USAGE}, *HI), "broke off"),
        # The endpoint gave up.
        (Answer(chunks=[*HI, said("", "error")]), "reports an error: it gave up the reply (error)"),
        (Answer(chunks=[*HI, said("", "abort")]), "it gave up the reply (abort)"),
        (Answer(chunks=[*HI, said("", "insufficient_system_resource")]), "it gave up the reply"),
        # It says why.
        (cut(*HI, FAILURE), "reports an error: overloaded"),
        (Answer(chunks=[*HI, FAILURE]), "reports an error: overloaded"),
        (Answer(chunks=[*HI, {**said("", "error"), **FAILURE}]), "reports an error: overloaded"),
        (Answer(chunks=[*HI, FAILURE, END]), "reports an error: overloaded"),
        (Answer(chunks=[*HI, END, FAILURE]), "reports an error: overloaded"),
        (Answer(chunks=[*HI, {"choices": [], **FAILURE}]), "reports an error: overloaded"),
        (Answer(chunks=[*HI, {"choices": [{"delta": {}, **FAILURE}]}]), "error: overloaded"),
        (Answer(chunks=[*HI, {"choices": [{"delta": FAILURE}]}]), "error: overloaded"),
        (Answer(chunks=[*HI, {"choices": [{"finish_reason": "error", **FAILURE}]}]), "overloaded"),
        (cut(*HI, 'event: error\ndata: {"message": "overloaded"}\n\n'), "error: overloaded"),
        (cut(*HI, "event: error\n" + event(FAILURE)), "error: overloaded"),
        (cut(*HI, "event: error\ndata: overloaded\n\n"), "error: overloaded"),
        (cut(*HI, "event: error\ndata: overloaded"), "error: overloaded"),
        (cut(*HI, 'error: {"code": 503, "message": "overloaded"}\n\n', "data: [DONE]\n\n"),
         "error: overloaded"),
        (cut(*HI, json.dumps(FAILURE) + "\n\n"), "error: overloaded"),
        (cut(*HI, {"error": "overloaded"}), "error: overloaded"),
        (cut(*HI, {"error": ["overloaded"]}), "error: overloaded"),
        (cut(*HI, [FAILURE]), "error: overloaded"),
        (cut(*HI, {"object": "error", "message": "overloaded", "code": 503}), "error: overloaded"),
        (cut(*HI, {"type": "error", "error": {"type": "x", "message": "overloaded"}}),
         "error: overloaded"),
        (cut(*HI, {"errors": [{"message": "overloaded"}]}), "error: overloaded"),
        (Answer(chunks=[*HI, "data: not JSON\n\n", END]), "sent something that is not JSON"),
        (Answer(chunks=[*HI, "data: 12\n\n", END]), "not a JSON object"),
    ],
)  # fmt: skip
async def test_the_reply_was_cut_and_what_came_counts(
    server: LLMServer, model: Model, run: AgentRun, answer: Answer, message: str
) -> None:
    server.answer = answer
    with pytest.raises(LLMError) as caught:
        await within(5, ask(run, model))
    assert message in str(caught.value)
    if "overloaded" in message:
        assert caught.value.detail == "overloaded"
        has_code = "503" in json.dumps(str(answer.chunks))
        assert caught.value.status == (503 if has_code else None)
    event = run.only("llm_call")
    assert (event["outcome"], event["error"]["message"]) == ("error", str(caught.value))
    assert event["text"] == run.shown == "Good day."
    assert run.trace.usage.llm_calls == 1
    assert server.request_count == 1
    assert busy_counts(model) == [0]
    server.answer = Answer()
    assert (await within(5, ask(run, model))).text == TEXT


@pytest.mark.parametrize(
    ("answer", "message", "status"),
    [
        (Answer(body=FAILURE), "reports an error: overloaded", 503),
        (Answer(body={"error": "overloaded"}), "reports an error: overloaded", None),
        (Answer(body={"error": {"message": "no", "code": "429"}}), "reports an error: no", 429),
        (Answer(body={"error": {"message": "no", "code": "rate_limit"}}), "error: no", None),
        (Answer(body=json.dumps([FAILURE])), "reports an error: overloaded", 503),
        (Answer(body={"object": "error", "message": "no", "code": 400}), "error: no", 400),
        (Answer(body={"choices": [{"error": {"message": "no", "code": 502}}]}), "error: no", 502),
        (Answer(body={"choices": [{"message": {"content": "Half"}, "finish_reason": "error"}]}),
         "it gave up the reply", None),
        (Answer(body={"detail": "Not found"}), "without a choice: Not found", None),
        (Answer(body={"code": 1001, "msg": "no balance"}), "a choice: no balance", None),
        (Answer(body={"success": False, "errors": [{"code": 7003, "message": "no route"}]}),
         "reports an error: no route", None),
        (Answer(body={"choices": None}), "without a choice", None),
        (Answer(body="null"), "without a choice", None),
        (Answer(body=""), "without a choice", None),
        (Answer(body="   \n", headers={"Content-Type": "text/event-stream"}), "a choice", None),
        (Answer(body="<html>nginx</html>"), "neither JSON nor an event stream", 200),
        (Answer(body="\n<!DOCTYPE html>", headers={"Content-Type": "text/event-stream"}),
         "neither JSON nor an event stream", 200),
        (Answer(body="Welcome to nginx", headers={"Content-Type": "text/plain"}),
         "text/plain that is neither JSON nor an event stream; is its address right?", 200),
        (Answer(body="d", headers={"Content-Type": None}), "something that is neither", 200),
        (Answer(body="date: today", headers={"Content-Type": "text/plain"}), "neither", 200),
        (Answer(body='{"choices": [{"message": {"content": "Ha'), "not JSON", None),
        (Answer(body="[" * 200_000), "not JSON", None),
        (Answer(body='{"usage": ' + "9" * 5000 + "}"), "not JSON", None),
        (Answer(body="data: " + "[" * 200_000 + "\n\n"), "not JSON", None),
    ],
)  # fmt: skip
async def test_the_answer_is_no_reply(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    answer: Answer,
    message: str,
    status: int | None,
) -> None:
    server.answer = answer
    for stream in (True, False):
        with pytest.raises(LLMError) as caught:
            await within(5, ask(run, model, stream=stream))
        assert message in str(caught.value)
        assert caught.value.status == status
    assert server.request_count == 2
    assert busy_counts(model) == [0]


@pytest.mark.parametrize("label", ["text/event-stream", "application/json"])
async def test_an_answer_in_one_piece_without_end_is_cut(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    label: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "MAX_BYTES", 100_000)
    start = "data: {" if label == "text/event-stream" else "{"
    chunks = itertools.chain([start], itertools.repeat(" " * 10_000))
    server.answer = Answer(chunks=chunks, headers={"Content-Type": label})
    with pytest.raises(LLMError, match="in one piece"):
        await within(5, ask(run, model))
    await server.until(lambda: server.aborted_count == 1, "the connection to be closed")


@pytest.mark.parametrize("field", ["content", "reasoning", "refusal", "arguments"])
async def test_a_reply_without_end_is_cut(
    server: LLMServer, model: Model, run: AgentRun, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(reply, "MAX_EXTENT", 50_000)
    delta: dict[str, Any] = {field: "word " * 100}
    if field == "arguments":
        delta = {"tool_calls": [{"index": 0, "function": delta}]}
    server.answer = Answer(chunks=itertools.repeat({"choices": [{"delta": delta}]}))
    with pytest.raises(LLMError, match="more than 50,000 characters"):
        await within(5, ask(run, model))
    await server.until(lambda: server.aborted_count == 1, "the connection to be closed")
    assert run.trace.usage.output_tokens < 20_000


@pytest.mark.parametrize("heartbeat", [": OPENROUTER PROCESSING\n\n", "event: ping\ndata: {}\n\n"])
@pytest.mark.parametrize(
    ("chunks", "constant"),
    [
        ([*HI, END], "USAGE_SECONDS"),
        ([*HI[:2], said("day.", "stop")], "DOUBT_SECONDS"),
        ([*HI, "data: [DONE]\n\n"], "REST_SECONDS"),
    ],
)
async def test_heartbeats_do_not_keep_a_reply_from_its_end(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    monkeypatch: pytest.MonkeyPatch,
    chunks: list[Any],
    constant: str,
    heartbeat: str,
) -> None:
    monkeypatch.setattr(endpoint, constant, 0.05)
    endless = itertools.chain(chunks, itertools.repeat(heartbeat))
    server.answer = Answer(chunks=endless, pause=0.01)
    assert (await within(5, ask(run, model))).text == "Good day."
    await server.until(lambda: server.aborted_count == 1, "the connection to be closed")
    assert busy_counts(model) == [0]


async def test_a_reason_with_each_chunk_does_not_cut_a_slow_reply(
    server: LLMServer, model: Model, run: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "USAGE_SECONDS", 0.02)
    monkeypatch.setattr(endpoint, "DOUBT_SECONDS", 0.5)
    words = [f"{number} " for number in range(15)]
    server.answer = Answer(chunks=[said(word, "stop") for word in words], pause=0.05)
    assert (await within(5, ask(run, model))).text == "".join(words)


@pytest.mark.parametrize("at", ["content", "tool_calls", "arguments", "error", "reasoning", "list"])
@pytest.mark.parametrize("depth", [400, 900])
async def test_json_that_is_nested_deeply_is_no_surprise(
    server: LLMServer, model: Model, run: AgentRun, at: str, depth: int
) -> None:
    deep: Any = '"x"'
    deep = ("[" * depth + deep + "]" * depth) if at != "error" else '{"error":' * depth + "{}" + (
        "}" * depth
    )  # fmt: skip
    delta = f'{{"{at}": {deep}}}'
    if at == "arguments":
        delta = f'{{"tool_calls": [{{"function": {{"name": "f", "arguments": {deep}}}}}]}}'
    chunk = deep if at == "list" else f'{{"choices": [{{"delta": {delta}}}]}}'
    server.answer = Answer(chunks=[f"data: {chunk}\n\n", END])
    with suppress(LLMError):
        await within(5, ask(run, model))
    assert run.only("llm_call")["outcome"] in ("ok", "error")
    assert run.only("llm_call").get("error", {}).get("type", "LLMError") == "LLMError"


async def test_a_whole_reply_is_not_lost_to_the_limit_of_a_call(
    server: LLMServer, run: AgentRun
) -> None:
    model = Model(server.base_url, "", "m", total_timeout=0.3)
    server.answer = cut(*HI, END, rest=30)
    assert (await within(5, ask(run, model))).text == "Good day."
    await server.until(lambda: server.aborted_count == 1, "the connection to be closed")
    await model.aclose()


async def test_what_an_endpoint_says_in_place_of_a_reply_has_no_secret_and_an_end(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    server.answer = Answer(body={"detail": f"bad key {KEY[:9]}... " + "x" * 5000})
    with pytest.raises(LLMError, match=r"without a choice: bad key \[redacted\]") as caught:
        await within(5, ask(run, model))
    assert len(str(caught.value)) < 700
    assert len(caught.value.detail) < 600


async def test_heartbeats_for_ever_and_no_reply_have_an_end(
    server: LLMServer, run: AgentRun
) -> None:
    model = Model(server.base_url, "", "m", total_timeout=1)
    server.answer = Answer(chunks=itertools.repeat(": OPENROUTER PROCESSING\n\n"), pause=0.01)
    with pytest.raises(LLMError, match="more than 1 s"):
        await within(5, ask(run, model))
    usage = run.trace.usage  # the request was sent
    assert (usage.llm_calls, usage.output_tokens, usage.estimated) == (1, 0, True)
    await model.aclose()
