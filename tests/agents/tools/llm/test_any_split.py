"""Any split of an answer gives the same reply: of its bytes, its events, its texts, its calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.exceptions import LLMError
from agents.tools.llm.body import DONE, AnswerBody, NotJSON
from agents.tools.llm.reply import LLMReply, PartialReply
from agents.values.storable import clean_text

# Texts with what is special in JSON, in events and in UTF-16.
_TEXTS = st.text(
    st.one_of(st.sampled_from('aé"\\{}[]:, \n\r\t\u2028\x85\ud83d\ude00😀'), st.characters()),
    max_size=30,
)
_NAMES = st.sampled_from(["look", "listen", "look_at"])
_OBJECTS = st.dictionaries(_TEXTS, st.one_of(_TEXTS, st.integers(), st.lists(_TEXTS, max_size=2)))


@st.composite
def _split(draw: st.DrawFn, whole: Any) -> list[Any]:
    """A text or bytes in up to seven pieces, some of them empty."""
    places = st.lists(st.integers(0, len(whole)), max_size=6)
    cuts = [0, *sorted(draw(places)), len(whole)]
    return [whole[start:end] for start, end in pairwise(cuts)]


@st.composite
def _calls(draw: st.DrawFn) -> list[tuple[str, str]]:
    calls = draw(st.lists(st.tuples(_NAMES, _OBJECTS), max_size=3))
    return [(name, json.dumps(value, ensure_ascii=draw(st.booleans()))) for name, value in calls]


@st.composite
def _deltas(draw: st.DrawFn, text: str, calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The chunks of a reply, in one of the forms in which servers send them."""
    deltas: list[dict[str, Any]] = [{"content": piece} for piece in draw(_split(text))]
    form = draw(st.sampled_from(["proper", "ids", "always 0", "changing ids", "bare", "named"]))
    for number, (name, arguments) in enumerate(calls):
        for at, piece in enumerate(draw(_split(arguments))):
            function: dict[str, Any] = {"arguments": piece}
            call: dict[str, Any] = {"function": function}
            if at == 0 or form == "named":
                function["name"] = name
            if form in ("proper", "named"):
                call["index"] = number
            if form in ("always 0", "changing ids"):
                call["index"] = 0
            if form == "ids" or (form == "proper" and at == 0):
                call["id"] = f"id{number}"
            if form == "changing ids":
                call["id"] = f"id{number}-{at}"
            deltas.append({"tool_calls": [call]})
    return deltas


@st.composite
def _streams(draw: st.DrawFn, deltas: list[dict[str, Any]], *, is_ended: bool = True) -> bytes:
    """The bytes of a stream, with its line ends, comments and escapes."""
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    space = draw(st.sampled_from(["", " "]))
    ends: list[Any] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    lines: list[str] = []
    for chunk in chunks + ends * is_ended:
        if draw(st.booleans()):
            lines += draw(st.sampled_from([[": ping", ""], [":"], ["event: ping", "data: {}", ""]]))
        lines += [f"data:{space}{_as_json(chunk, draw(st.booleans()))}", ""]
    if is_ended and draw(st.booleans()):
        lines += [f"data:{space}[DONE]", ""]
    text = line_end.join([*lines, ""])
    if draw(st.booleans()):
        text = "\ufeff" + text
    return text.encode()


def _as_json(value: Any, escaped: bool) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # halves can only come as escapes
        escaped = True
    return json.dumps(value) if escaped else text


def _read(pieces: Iterable[bytes], shown: list[str], label: str = "text/plain") -> LLMReply:
    body, reply = AnswerBody(label), PartialReply("m", 4)
    for value in _values(body, pieces):
        if value is DONE:
            reply.is_done = True
            break
        shown.append(reply.add(value))
    shown.append(reply.end())
    return reply.finish()


def _values(body: AnswerBody, pieces: Iterable[bytes]) -> Iterator[object]:
    for piece in pieces:
        yield from body.feed(piece)
    yield from body.close()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_split_of_a_stream_gives_the_same_reply(data: st.DataObject) -> None:
    text, calls = data.draw(_TEXTS), data.draw(_calls())
    stream = data.draw(_streams(data.draw(_deltas(text, calls))))
    shown: list[str] = []
    reply = _read(data.draw(_split(stream)), shown)
    assert reply.text == "".join(shown) == clean_text(text)
    functions = [tuple(call["function"].values()) for call in reply.tool_calls]
    assert functions == [(name, clean_text(arguments)) for name, arguments in calls]
    assert reply.finish_reason == ("tool_calls" if calls else "stop")
    json.dumps([reply.text, reply.tool_calls], ensure_ascii=False).encode()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_stream_that_ends_early_is_cut_or_whole_and_never_another_reply(
    data: st.DataObject,
) -> None:
    text = data.draw(_TEXTS)
    stream = data.draw(_streams(data.draw(_deltas(text, []))))
    early = stream[: data.draw(st.integers(0, len(stream)))]
    shown: list[str] = []
    try:
        reply = _read(data.draw(_split(early)), shown, "text/event-stream")
    except LLMError as error:
        assert "broke off" in str(error) or "without a choice" in str(error)  # noqa: PT017
        assert clean_text(text).startswith("".join(shown).rstrip("\ufffd"))
    else:
        assert reply.text == clean_text(text)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_split_of_a_document_gives_the_same_reply(data: st.DataObject) -> None:
    text, calls = data.draw(_TEXTS), data.draw(_calls())
    made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    message = {"content": text, "tool_calls": made}
    whole = {"choices": [{"message": message, "finish_reason": "stop"}]}
    indent = data.draw(st.sampled_from([None, 2]))
    raw = data.draw(st.sampled_from(["", " \n", "\ufeff"])).encode()
    raw += json.dumps(whole, indent=indent).encode()
    label = data.draw(st.sampled_from(["", "text/event-stream", "application/json"]))
    body, reply = AnswerBody(label), PartialReply("m", 4)
    for value in _values(body, data.draw(_split(raw))):
        reply.add(value)
    assert body.is_document
    reply.is_done = True
    finished = reply.finish()
    assert finished.text == clean_text(text)
    functions = [tuple(call["function"].values()) for call in finished.tool_calls]
    assert functions == [(name, clean_text(arguments)) for name, arguments in calls]


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "delta", "message", "content", "tool_calls", "function", "usage"),
                    *("index", "id", "name", "arguments", "error", "finish_reason", "text", "type"),
                    *("refusal", "reasoning", "model", "function_call", "prompt_tokens", "x_groq"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(chunks=st.lists(_JSON, max_size=5), data=st.data())
def test_whatever_comes_is_a_reply_or_an_llm_error(chunks: list[Any], data: st.DataObject) -> None:
    raw = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()
    raw = data.draw(st.sampled_from([raw, raw[:-3], b"data: " + raw, raw[6:]]))
    shown: list[str] = []
    try:
        reply = _read(data.draw(_split(raw)), shown, "text/event-stream")
    except (LLMError, NotJSON):
        return
    json.dumps([reply.text, reply.tool_calls, reply.model], ensure_ascii=False).encode()


@settings(max_examples=50, deadline=None)
@given(raw=st.binary(max_size=200), label=st.sampled_from(["", "text/event-stream", "x/json"]))
def test_whatever_bytes_come_are_values_or_an_error(raw: bytes, label: str) -> None:
    body = AnswerBody(label)
    with suppress(LLMError, NotJSON):
        list(_values(body, [raw]))
