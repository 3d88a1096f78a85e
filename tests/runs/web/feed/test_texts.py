"""Streamed text of a run: in few pieces, each character once, never after the end of its call."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from runs.web.feed import texts
from runs.web.feed.tail import RunTail
from tests.support.feeds import turns

RUN = uuid.UUID(int=1)
USAGE = {"llm_calls": 0, "input_tokens": 0, "output_tokens": 0, "estimated": False}


def _call(name: str) -> Any:
    return {"call": name, "tool": "call_llm", "label": "small", "started_at": "now"}


def _say(run: RunTail, call: str, text: str) -> None:
    """Let a model say something more."""
    run.texts.take("writer", call, run.texts.lengths().get(call, 0), text)


def _sent(tail: RunTail) -> str:
    return "".join(json.loads(frame.data)["text"] for frame in tail.texts.after(0))


def _texts(run: RunTail, call: str) -> list[str]:
    told = [json.loads(data) for _, data in run.texts._pieces]
    return [text["text"] for text in told if text["call"] == call]


class TestText:
    """Ten pieces a second, and all that was said in them."""

    async def test_is_sent_whole_in_few_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "TEXT_SECONDS", 0.05)
        run = RunTail(RUN)
        loop = asyncio.get_running_loop()
        run.set_activity([_call("a")], USAGE)
        began = loop.time()
        said = [f"word {number} " for number in range(300)]
        for piece in said:
            _say(run, "a", piece)
            await asyncio.sleep(0.001)
        run.set_activity([], USAGE)
        run.texts.end("a")
        seconds = loop.time() - began
        assert "".join(_texts(run, "a")) == "".join(said)
        # The first at once, the last when the call is over.
        assert 2 < run.texts.count <= seconds / 0.05 + 2
        run.close()

    async def test_of_a_call_that_is_over_is_sent_to_its_last_word(self) -> None:
        """Its last words come in the very moment in which it is over."""
        run = RunTail(RUN)
        run.set_activity([_call("a")], USAGE)
        _say(run, "a", "first")
        _say(run, "a", " last")
        run.set_activity([], USAGE)
        async with asyncio.timeout(10):
            while run.texts:
                await asyncio.sleep(0.005)
        assert _texts(run, "a") == ["first", " last"]
        run.close()

    async def test_of_many_short_calls_is_no_flood(self) -> None:
        run = RunTail(RUN)
        for number in range(500):
            run.set_activity([_call(f"call {number}")], USAGE)
            _say(run, f"call {number}", "short")
            run.texts.end(f"call {number}")
        assert run.texts.count <= 2
        assert not run.texts._texts
        run.close()

    async def test_so_far_is_sent_to_a_reader_that_comes_in_the_middle(self) -> None:
        run = RunTail(RUN)
        run.set_activity([_call("a")], USAGE)
        _say(run, "a", "one ")
        _say(run, "a", "two")
        (frame,) = run.texts.so_far()
        assert json.loads(frame.data)["text"] == "one "
        before = run.texts.count
        run.texts.end("a")
        assert [json.loads(f.data)["text"] for f in run.texts.after(before)] == ["two"]
        assert run.texts.so_far() == []
        run.close()

    async def test_without_end_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "MOST_CHARACTERS", 100)
        run = RunTail(RUN)
        run.set_activity([_call("a")], USAGE)
        for _ in range(1_000):
            _say(run, "a", "x" * 10)
        assert 100 <= run.texts.lengths()["a"] <= 110
        run.close()


class TestOfAnotherProcess:
    """Its messages overtake the record, come late, twice, or not at all."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "TEXT_SECONDS", 0.0)

    async def test_is_sent_once_the_call_is_known(self) -> None:
        tail = RunTail(RUN)
        assert tail.texts.take("a", "1", 0, "early ")
        await turns(3)
        assert _sent(tail) == ""
        assert tail.texts.so_far() == []
        tail.set_activity([_call("1")], USAGE)
        await turns(3)
        assert _sent(tail) == "early "
        assert tail.texts.take("a", "1", 6, "bird")
        await turns(3)
        assert _sent(tail) == "early bird"

    async def test_takes_each_character_once(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        for start, text in ((0, "abc"), (0, "abc"), (2, "cde"), (0, "abcdefg"), (7, "h")):
            assert tail.texts.take("a", "1", start, text)
            await turns(3)
        assert _sent(tail) == "abcdefgh"

    async def test_says_when_a_piece_is_missing(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        assert tail.texts.take("a", "1", 0, "abc")
        assert not tail.texts.take("a", "1", 5, "fg")
        assert tail.texts.take("a", "1", 0, "abcdefg")
        await turns(3)
        assert _sent(tail) == "abcdefg"

    async def test_is_not_sent_after_the_end_of_a_call(self) -> None:
        tail = RunTail(RUN)
        tail.set_activity([_call("1"), _call("2")], USAGE)
        tail.texts.take("a", "1", 0, "one")
        tail.texts.take("a", "2", 0, "two")
        await turns(5)
        tail.texts.end("1")  # its event
        tail._activity_timer = None
        tail.set_activity([], USAGE)
        before = tail.texts.count
        for call in ("1", "2"):
            assert tail.texts.take("a", call, 3, " more")
            assert tail.texts.take("a", call, 0, "all of it")
        await turns(5)
        assert tail.texts.count == before
        assert tail.texts.so_far() == []
        tail.close()

    async def test_of_unknown_calls_is_kept_in_part(self) -> None:
        tail = RunTail(RUN)
        for number in range(500):
            tail.texts.take("a", f"call {number}", 0, "x" * 1_000)
        assert len(tail.texts._texts) == texts.MOST_UNKNOWN

    async def test_an_answer_without_end_is_not_asked_for_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(texts, "MOST_CHARACTERS", 10)
        tail = RunTail(RUN)
        tail.set_activity([_call("1")], USAGE)
        assert tail.texts.take("a", "1", 0, "x" * 20)
        assert tail.texts.take("a", "1", 20, "x" * 20)
        assert tail.texts.take("a", "1", 40, "x" * 20)
