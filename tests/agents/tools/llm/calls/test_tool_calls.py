"""Tool calls, in every form in which servers send them; docs/model-endpoints.md lists the forms."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agents.tools.llm.client import Model, call_llm
from tests.support.agent_run import AgentRun, within
from tests.support.llm_calls import ask
from tests.support.llm_server import Answer, LLMServer

LOOK = ("look", '{"at": {"x": 1}}')
LISTEN = ("listen", '{"to": "sea}"}')


def chunk(*pieces: Any, reason: str | None = None, key: str = "delta") -> dict[str, Any]:
    choice = {"index": 0, key: {"tool_calls": list(pieces)}, "finish_reason": reason}
    return {"choices": [choice]}


def piece(arguments: Any = None, **more: Any) -> dict[str, Any]:
    """A piece of a call: its name, index and id only if given."""
    function = {"name": more.pop("name")} if "name" in more else {}
    if arguments is not None:
        function["arguments"] = arguments
    return {"type": "function", "function": function, **more}


def whole(call: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return piece(call[1], name=call[0], **more)


def pieces_of(call: tuple[str, str], first: dict[str, Any], rest: Any = None) -> list[Any]:
    """A call in four pieces, each in a chunk of its own; ``rest(n)`` is what the n-th has."""
    name, arguments = call
    cuts = [arguments[:3], arguments[3:9], arguments[9:]]
    return [
        chunk(piece("", name=name, **first)),
        *(chunk(piece(cut, **(rest(n) if rest else {}))) for n, cut in enumerate(cuts)),
    ]


def named(n: int) -> dict[str, Any]:
    return {"index": 0, "name": "look"}


LEGACY = [
    {"choices": [{"delta": {"function_call": {"name": "look", "arguments": ""}}}]},
    {"choices": [{"delta": {"function_call": {"arguments": '{"at": '}}}]},
    {"choices": [{"delta": {"function_call": {"arguments": '{"x": 1}}'}}}]},
]
ONE: dict[str, list[Any]] = {
    "as OpenAI does": pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
    "no index": pieces_of(LOOK, {"id": "a"}),
    "neither index nor id": pieces_of(LOOK, {}),
    "an index, and no id": pieces_of(LOOK, {"index": 0}, lambda n: {"index": 0}),
    "an index, but not with the first piece": pieces_of(LOOK, {"id": "a"}, lambda n: {"index": 0}),
    "another index with each piece": pieces_of(LOOK, {"index": 0}, lambda n: {"index": n + 1}),
    "another index with each piece of an id": pieces_of(
        LOOK, {"index": 0, "id": "a"}, lambda n: {"index": n + 1, "id": "a"}
    ),
    "an index that is text": pieces_of(LOOK, {"index": "0"}, lambda n: {"index": 0}),
    "an index that is nonsense": pieces_of(LOOK, {"index": [0]}, lambda n: {"index": {}}),
    "the id with each piece": pieces_of(
        LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0, "id": "a"}
    ),
    "the id with each piece, no index": pieces_of(LOOK, {"id": "a"}, lambda n: {"id": "a"}),
    "another id with each piece": pieces_of(
        LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0, "id": f"a{n}"}
    ),
    "another id with each piece, no index": pieces_of(LOOK, {"id": "a"}, lambda n: {"id": f"a{n}"}),
    "another id with each piece, and the name": pieces_of(
        LOOK, {"index": 0, "id": "a"}, lambda n: {"id": f"a{n}", **named(n)}
    ),
    "the name with each piece": pieces_of(LOOK, {"index": 0, "id": "a"}, named),
    "the name with each piece, and no id": pieces_of(LOOK, {"index": 0}, named),
    "the name with each piece, neither index nor id": pieces_of(
        LOOK, {}, lambda n: {"name": "look"}
    ),
    "the name in pieces": [
        chunk(piece(None, index=0, id="a", name="lo")),
        chunk(piece("", index=0, name="ok")),
        chunk(piece(LOOK[1], index=0)),
    ],
    "the name in pieces that grow": [
        chunk(piece(None, name="lo")),
        chunk(piece(None, name="look")),
        chunk(piece(LOOK[1])),
    ],
    "the name after the id": [
        chunk(piece(None, index=0, id="a")),
        chunk(piece("", index=0, name="look")),
        chunk(piece(LOOK[1], index=0)),
    ],
    "null in all fields": [
        chunk({"index": 0, "id": "a", "type": None, "function": {"name": "look"}}),
        chunk({"index": 0, "id": None, "type": None, "function": None}),
        chunk({"index": None, "id": None, "function": {"name": None, "arguments": LOOK[1]}}),
        chunk({"index": 0, "id": None, "function": {"name": None, "arguments": None}}),
        chunk(None, {}, {"index": 0, "id": "", "function": {"name": "", "arguments": ""}}),
    ],
    "in one chunk": [chunk(whole(LOOK, index=0, id="a"))],
    "arguments as an object": [chunk(piece({"at": {"x": 1}}, index=0, name="look"))],
    "an empty object before the arguments": [
        chunk(piece("{}", index=0, id="a", name="look")),
        chunk(piece(LOOK[1][:5], index=0)),
        chunk(piece(LOOK[1][5:], index=0)),
    ],
    "all of it again at the end": [
        *pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
        chunk(whole(LOOK, index=0, id="a")),
    ],
    "all of it again in a message": [
        *pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
        chunk(whole(LOOK, id="a"), key="message"),
    ],
    "in a message at the end": [chunk(whole(LOOK, id="a"), key="message")],
    "not in a list": [{"choices": [{"delta": {"tool_calls": whole(LOOK)}}]}],
    "as a function_call": LEGACY,
    "after the reason to finish": [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        chunk(whole(LOOK)),
    ],
}


def mixed(*calls: list[Any]) -> list[Any]:
    """Chunks of several calls in turn."""
    return [one for several in zip(*calls, strict=True) for one in several]


TWO: dict[str, list[Any]] = {
    "as OpenAI does": [
        *pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
        *pieces_of(LISTEN, {"index": 1, "id": "b"}, lambda n: {"index": 1}),
    ],
    "in turn": mixed(
        pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
        pieces_of(LISTEN, {"index": 1, "id": "b"}, lambda n: {"index": 1}),
    ),
    "in turn, and no ids": mixed(
        pieces_of(LOOK, {"index": 0}, lambda n: {"index": 0}),
        pieces_of(LISTEN, {"index": 1}, lambda n: {"index": 1}),
    ),
    "in turn, with ids alone": mixed(
        pieces_of(LOOK, {"id": "a"}, lambda n: {"id": "a"}),
        pieces_of(LISTEN, {"id": "b"}, lambda n: {"id": "b"}),
    ),
    "in turn, with ids and always 0": mixed(
        pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0, "id": "a"}),
        pieces_of(LISTEN, {"index": 0, "id": "b"}, lambda n: {"index": 0, "id": "b"}),
    ),
    "side by side, and nothing else": [
        chunk(piece("", name="look"), piece("", name="listen")),
        chunk(piece(LOOK[1][:4]), piece(LISTEN[1][:4])),
        chunk(piece(LOOK[1][4:]), piece(LISTEN[1][4:])),
    ],
    "side by side, counted from 1": [
        chunk(piece("", name="look", index=1), piece("", name="listen", index=2)),
        chunk(piece(LOOK[1], index=1), piece(LISTEN[1], index=2)),
    ],
    "whole, always 0, no ids": [chunk(whole(LOOK, index=0)), chunk(whole(LISTEN, index=0))],
    "whole, always 0, no ids, one chunk": [chunk(whole(LOOK, index=0), whole(LISTEN, index=0))],
    "whole, always 0": [
        chunk(whole(LOOK, index=0, id="a")),
        chunk(whole(LISTEN, index=0, id="b")),
    ],
    "whole, no index": [chunk(whole(LOOK, id="a")), chunk(whole(LISTEN, id="b"))],
    "whole, neither index nor ids": [chunk(whole(LOOK)), chunk(whole(LISTEN))],
    "whole, the same id": [
        chunk(whole(LOOK, index=0, id="call_0")),
        chunk(whole(LISTEN, index=0, id="call_0")),
    ],
    "whole, the same id, proper index": [
        chunk(whole(LOOK, index=0, id="null")),
        chunk(whole(LISTEN, index=1, id="null")),
    ],
    "whole, empty ids": [
        chunk(whole(LOOK, index=0, id="")),
        chunk(whole(LISTEN, index=0, id="")),
    ],
    "whole, objects": [
        chunk(piece(json.loads(LOOK[1]), name="look", index=0)),
        chunk(piece(json.loads(LISTEN[1]), name="listen", index=0)),
    ],
    "in pieces, always 0, no ids": [
        *pieces_of(LOOK, {"index": 0}, lambda n: {"index": 0}),
        *pieces_of(LISTEN, {"index": 0}, lambda n: {"index": 0}),
    ],
    "in pieces, always 0": [
        *pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0}),
        *pieces_of(LISTEN, {"index": 0, "id": "b"}, lambda n: {"index": 0}),
    ],
    "in pieces, nothing else": [*pieces_of(LOOK, {}), *pieces_of(LISTEN, {})],
    "in pieces, always 0, another id with each": [
        *pieces_of(LOOK, {"index": 0, "id": "a"}, lambda n: {"index": 0, "id": f"a{n}"}),
        *pieces_of(LISTEN, {"index": 0, "id": "b"}, lambda n: {"index": 0, "id": f"b{n}"}),
    ],
    "in a message at the end": [chunk(whole(LOOK), whole(LISTEN), key="message")],
    "in pieces, always 0, no ids, the name with each piece": [
        *pieces_of(LOOK, {"index": 0}, named),
        chunk(piece("", index=0, name="look")),
        *pieces_of(LISTEN, {"index": 0}, lambda n: {"index": 0, "name": "listen"}),
        chunk(piece(" ", index=0, name="listen")),
    ],
}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        *(pytest.param(chunks, [LOOK], id=name) for name, chunks in ONE.items()),
        *(pytest.param(chunks, [LOOK, LISTEN], id=f"two: {n}") for n, chunks in TWO.items()),
        pytest.param([*LEGACY], [LOOK], id="legacy"),
        pytest.param(
            [chunk(whole(LOOK, index=0)), chunk(whole(LOOK, index=0))],
            [LOOK, LOOK],
            id="the same twice, always 0, no ids",
        ),
        pytest.param(
            2 * pieces_of(LOOK, {"index": 0}, lambda n: {"index": 0}),
            [LOOK, LOOK],
            id="the same twice, in pieces, always 0, no ids",
        ),
        pytest.param(
            [chunk(piece("", index=0, id="a", name="wait")), chunk(piece("", index=1, name="go"))],
            [("wait", "{}"), ("go", "{}")],
            id="no arguments",
        ),
        pytest.param(
            [chunk(piece(None, id="a", name="wait"), piece("", id="b", name="go"))],
            [("wait", "{}"), ("go", "{}")],
            id="no arguments, no index",
        ),
        pytest.param(
            [chunk(piece("{}", index=0, name="go")), chunk(piece("{}", index=0, name="wait"))],
            [("go", "{}"), ("wait", "{}")],
            id="empty objects, always 0",
        ),
        pytest.param(
            [chunk(piece('{"a": ', index=0, name="go")), chunk(piece("1", index=0))],
            [("go", '{"a": 1')],
            id="arguments that the model left open",
        ),
    ],
)
async def test_each_call_is_put_together_and_can_be_given_back(
    server: LLMServer,
    model: Model,
    run: AgentRun,
    chunks: list[Any],
    expected: list[tuple[str, str]],
) -> None:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    server.answer = Answer(chunks=[*chunks, end])
    reply = await within(5, ask(run, model))
    functions = [call["function"] for call in reply.tool_calls]
    assert [(function["name"], function["arguments"]) for function in functions] == expected
    assert all(call["type"] == "function" for call in reply.tool_calls)
    ids = [call["id"] for call in reply.tool_calls]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    given = {part["id"] for part in _pieces(chunks) if part.get("id")}
    made_up = [call_id for call_id in ids if call_id not in given]
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call_id) for call_id in made_up)
    assert len(made_up) == (len(expected) if not given else len(made_up))
    assert reply.finish_reason == "tool_calls"
    assert run.only("llm_call")["tool_calls"] == reply.tool_calls

    answers = [{"role": "tool", "tool_call_id": call_id, "content": "ok"} for call_id in ids]
    back: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": reply.tool_calls}
    server.answer = Answer()
    await run.task(call_llm(run.guard, model, [back, *answers]))
    assert server.requests[1].body["messages"][0]["tool_calls"] == reply.tool_calls


def _pieces(chunks: list[Any]) -> list[dict[str, Any]]:
    deltas = [c["choices"][0].get("delta") or c["choices"][0].get("message") or {} for c in chunks]
    lists = [delta.get("tool_calls") or [] for delta in deltas]
    return [part for several in lists if isinstance(several, list) for part in several if part]


async def test_an_id_is_the_first_one_and_what_an_endpoint_wants_back_is_kept(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    extra = {"google": {"thought_signature": "c2ln"}}
    server.answer = Answer(
        chunks=[
            chunk(whole(LOOK, index=0, id="first", extra_content=extra)),
            chunk(piece("", index=0, id="second")),
            chunk(whole(LISTEN, index=1, id=7)),
        ]
    )
    look, listen = (await within(5, ask(run, model))).tool_calls
    assert (look["id"], listen["id"]) == ("first", "7")
    assert look["extra_content"] == extra
    assert "extra_content" not in listen


@pytest.mark.parametrize("value", ["\ud800", "\0", float("nan"), "deep"])
async def test_what_can_not_be_sent_back_is_not_kept(
    server: LLMServer, model: Model, run: AgentRun, value: Any
) -> None:
    for _ in range(200 if value == "deep" else 0):
        value = [value]
    server.answer = Answer(chunks=[chunk(whole(LOOK, extra_content={"a": value}))])
    (look,) = (await within(5, ask(run, model))).tool_calls
    assert "extra_content" not in look


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_arguments_that_are_missing_because_the_reply_is_short_are_not_made_up(
    server: LLMServer, model: Model, run: AgentRun, reason: str
) -> None:
    server.answer = Answer(chunks=[chunk(piece("", index=0, name="look")), chunk(reason=reason)])
    reply = await within(5, ask(run, model))
    assert (reply.finish_reason, reply.tool_calls[0]["function"]["arguments"]) == (reason, "")


async def test_what_is_no_call_is_none(server: LLMServer, model: Model, run: AgentRun) -> None:
    nothing = [None, {}, [], "x", 3, {"index": 0}, {"index": 0, "id": "a", "function": None}]
    server.answer = Answer(
        chunks=[chunk(*nothing), {"choices": [{"delta": {"tool_calls": "x", "content": "Hi"}}]}]
    )
    reply = await within(5, ask(run, model))
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("Hi", [], None)


@pytest.mark.parametrize("form", [{"index": 0}, {"id": "a"}])
async def test_a_great_many_calls_are_read_in_no_time(
    server: LLMServer, model: Model, run: AgentRun, form: dict[str, Any]
) -> None:
    # With a search through all calls for each piece this would take minutes.
    server.answer = Answer(chunks=[chunk(*(whole(LOOK, **form) for _ in range(5_000)))])
    assert len((await within(10, ask(run, model))).tool_calls) == 5_000


async def test_a_thousand_pieces_of_one_call_are_read_in_no_time(
    server: LLMServer, model: Model, run: AgentRun
) -> None:
    # Each piece names the call again, so each one asks whether the arguments are complete.
    text = json.dumps({"text": "}{" * 20_000})
    cuts = [text[at : at + 20] for at in range(0, len(text), 20)]
    server.answer = Answer(chunks=[chunk(piece(cut, index=0, name="look")) for cut in cuts])
    reply = await within(5, ask(run, model))
    assert [call["function"]["arguments"] for call in reply.tool_calls] == [text]
