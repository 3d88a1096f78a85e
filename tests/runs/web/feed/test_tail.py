"""The end of a log: bounded, in order; text and what is in flight told in moderation."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from runs.web.feed import View, tail, texts
from runs.web.feed.reading import Snapshot
from runs.web.feed.tail import RunTail

RUN = uuid.UUID(int=1)
USAGE = {"llm_calls": 0, "input_tokens": 0, "output_tokens": 0, "estimated": False}


def _call(name: str) -> Any:
    return {"call": name, "tool": "call_llm", "label": "small", "started_at": "now"}


class TestLog:
    def test_gives_what_lies_behind_a_position(self) -> None:
        log = RunTail(RUN)
        for seq in range(1, 11):
            assert log.add(seq, f"e{seq}")
        assert log.behind(0, 100) == [f"e{seq}" for seq in range(1, 11)]
        assert log.behind(7, 2) == ["e8", "e9"]
        assert log.behind(10, 5) == log.behind(99, 5) == []

    def test_takes_each_once_and_none_too_early(self) -> None:
        log = RunTail(RUN)
        assert log.add(1, "e1")
        assert log.add(1, "again")
        assert not log.add(3, "e3")
        assert log.behind(0, 9) == ["e1"]

    def test_knows_what_it_has_left_to_the_table(self) -> None:
        log = RunTail(RUN)
        log.begin_at(50)
        log.add(51, "e51")
        assert log.behind(49, 9) is None
        assert log.behind(50, 9) == ["e51"]

    def test_keeps_so_many_and_so_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tail, "MOST_EVENTS", 10)
        monkeypatch.setattr(tail, "MOST_CHARACTERS", 100)
        log = RunTail(RUN)
        for seq in range(1, 51):
            log.add(seq, "x")
        assert log.behind(39, 99) is None
        assert len(log.behind(40, 99) or []) == 10
        log.add(51, "y" * 60)
        log.add(52, "z" * 60)
        assert log.behind(50, 99) is None
        assert log.behind(51, 99) == ["z" * 60]


class TestText:
    """Ten pieces a second, and all that was said in them."""

    async def test_is_told_whole_in_few_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "TEXT_SECONDS", 0.05)
        run = RunTail(RUN)
        loop = asyncio.get_running_loop()
        run.set_activity([_call("a")], USAGE)
        began = loop.time()
        said = [f"word {number} " for number in range(300)]
        for piece in said:
            run.texts.add("writer", "a", piece)
            await asyncio.sleep(0.001)
        run.set_activity([], USAGE)
        run.texts.end("a")
        seconds = loop.time() - began
        assert "".join(_texts(run, "a")) == "".join(said)
        # The first at once, the last when the call is over.
        assert 2 < run.texts.count <= seconds / 0.05 + 2
        run.close()

    async def test_of_a_call_that_is_over_is_told_to_its_last_word(self) -> None:
        """Its last words come in the very moment in which it is over."""
        run = RunTail(RUN)
        run.set_activity([_call("a")], USAGE)
        run.texts.add("writer", "a", "first")
        run.texts.add("writer", "a", " last")
        run.set_activity([], USAGE)
        async with asyncio.timeout(10):
            while run.texts:
                await asyncio.sleep(0.005)
        assert _texts(run, "a") == ["first", " last"]
        run.close()

    async def test_of_many_short_calls_is_no_flood(self) -> None:
        run = RunTail(RUN)
        for number in range(500):
            run.texts.add("writer", f"call {number}", "short")
            run.texts.end(f"call {number}")
        assert run.texts.count <= 2
        assert not run.texts._talking
        run.close()

    async def test_so_far_is_told_to_whoever_comes_in_the_middle(self) -> None:
        run = RunTail(RUN)
        run.set_activity([_call("a")], USAGE)
        run.texts.add("writer", "a", "one ")
        run.texts.add("writer", "a", "two")
        (frame,) = run.texts.so_far()
        assert json.loads(frame.data)["text"] == "one "
        before = run.texts.count
        run.texts.end("a")
        assert [json.loads(f.data)["text"] for f in run.texts.behind(before)] == ["two"]
        assert run.texts.so_far() == []
        run.close()

    async def test_without_end_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(texts, "MOST_CHARACTERS", 100)
        run = RunTail(RUN)
        for _ in range(1_000):
            run.texts.add("writer", "a", "x" * 10)
        talk = run.texts._talking["a"]
        assert len(talk.whole) + len(talk.fresh) <= 110
        run.close()


class TestActivity:
    async def test_is_told_in_moderation_and_its_last_state_always(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "ACTIVITY_SECONDS", 0.05)
        run = RunTail(RUN)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(200):
            run.set_activity([_call(str(number))], USAGE)
            await asyncio.sleep(0)
        run.set_activity([], USAGE)
        seconds = loop.time() - began
        assert run.activity_version <= seconds / 0.05 + 1
        async with asyncio.timeout(10):
            while json.loads(run.activity_frame(View()).data)["in_flight"]:
                await asyncio.sleep(0.005)
        run.close()

    async def test_that_is_the_same_is_no_news(self) -> None:
        run = RunTail(RUN)
        run.set_activity([], USAGE)
        assert run.activity_version == 1
        run._tell_activity()
        run.set_activity([], dict(USAGE))
        run._tell_activity()
        assert run.activity_version == 1
        run.close()


def test_a_run_that_is_over_is_shown_as_it_was_written() -> None:
    """What was in flight here is older than the record then."""
    run = RunTail(RUN)
    run._in_flight, run.activity_version = [_call("a")], 3
    run.begin_at(4)
    wire = {"status": "success", "last_seq": 5, "in_flight": [], "usage": USAGE}
    run.show(Snapshot(RUN, RUN, 1, wire))
    assert json.loads(run.run_frame("run", View()).data) == wire
    assert not run.is_complete
    run.add(5, "the end")
    assert run.is_complete


def _texts(run: RunTail, call: str) -> list[str]:
    told = [json.loads(data) for _, data in run.texts._pieces]
    return [text["text"] for text in told if text["call"] == call]
