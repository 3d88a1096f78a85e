"""The end of a log: bounded, in order; calls in flight are sent in moderation."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from runs.web.feed import View, tail
from runs.web.feed.reading import Snapshot
from runs.web.feed.tail import RunTail, model_call

RUN = uuid.UUID(int=1)
USAGE = {"llm_calls": 0, "input_tokens": 0, "output_tokens": 0, "estimated": False}


def _call(name: str) -> Any:
    return {"call": name, "tool": "call_llm", "label": "small", "started_at": "now"}


class TestLog:
    def test_gives_what_comes_after_a_position(self) -> None:
        log = RunTail(RUN)
        for seq in range(1, 11):
            assert log.add(seq, f"e{seq}")
        assert log.after(0, 100) == [f"e{seq}" for seq in range(1, 11)]
        assert log.after(7, 2) == ["e8", "e9"]
        assert log.after(10, 5) == log.after(99, 5) == []

    def test_takes_each_once_and_none_too_early(self) -> None:
        log = RunTail(RUN)
        assert log.add(1, "e1")
        assert log.add(1, "again")
        assert not log.add(3, "e3")
        assert log.after(0, 9) == ["e1"]

    def test_knows_what_it_has_left_to_the_table(self) -> None:
        log = RunTail(RUN)
        log.start_at(50)
        log.add(51, "e51")
        assert log.after(49, 9) is None
        assert log.after(50, 9) == ["e51"]

    def test_keeps_so_many_and_so_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tail, "MOST_EVENTS", 10)
        monkeypatch.setattr(tail, "MOST_CHARACTERS", 100)
        log = RunTail(RUN)
        for seq in range(1, 51):
            log.add(seq, "x")
        assert log.after(39, 99) is None
        assert len(log.after(40, 99) or []) == 10
        log.add(51, "y" * 60)
        log.add(52, "z" * 60)
        assert log.after(50, 99) is None
        assert log.after(51, 99) == ["z" * 60]


class TestActivity:
    async def test_is_sent_in_moderation_and_its_last_state_always(
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

    async def test_that_is_the_same_is_not_sent(self) -> None:
        run = RunTail(RUN)
        run.set_activity([], USAGE)
        assert run.activity_version == 1
        run._show_activity()
        run.set_activity([], dict(USAGE))
        run._show_activity()
        assert run.activity_version == 1
        run.close()

    async def test_of_a_page_has_the_usage_of_the_tree_in_its_words(self) -> None:
        """What the run has used since its record was read is part of the tree's usage, too."""
        run = RunTail(RUN)
        below = {**USAGE, "llm_calls": 5}
        wire = {"status": "running", "last_seq": 0, "in_flight": [], "usage": USAGE, "stop": None}
        run.show(Snapshot(RUN, RUN, 1, {**wire, "usage_tree": below, "log_removed_at": None}))
        run.set_activity([], {**USAGE, "llm_calls": USAGE["llm_calls"] + 2})
        frame = run.activity_frame(View(is_page=True))
        assert json.loads(frame.data)["usage_tree"]["llm_calls"] == 7
        assert "7 LLM calls" in json.loads(frame.words)["usage_tree"]
        run.close()

    async def test_has_the_usage_of_the_tree_as_the_newest_record_says(self) -> None:
        run = RunTail(RUN)
        wire = {"status": "running", "last_seq": 0, "in_flight": [], "usage": USAGE}
        for calls in (5, 6):  # of the runs below it: no new version
            run.show(Snapshot(RUN, RUN, 1, {**wire, "usage_tree": {**USAGE, "llm_calls": calls}}))
            activity = json.loads(run.activity_frame(View()).data)
            assert activity["usage_tree"]["llm_calls"] == calls
        assert run.version == 1
        run.close()


def test_a_run_that_is_over_is_shown_as_it_was_written() -> None:
    """What was in flight here is older than the record then."""
    run = RunTail(RUN)
    run._in_flight, run.activity_version = [_call("a")], 3
    run.start_at(4)
    wire = {"status": "success", "last_seq": 5, "in_flight": [], "usage": USAGE}
    wire["usage_tree"] = USAGE
    run.show(Snapshot(RUN, RUN, 1, wire))
    assert json.loads(run.run_frame("run", View()).data) == wire
    assert not run.is_complete
    run.add(5, "the end")
    assert run.is_complete


def test_the_end_of_a_model_s_call_is_read_from_its_event() -> None:
    def event(type: str, /, **data: Any) -> str:
        return json.dumps({"type": type, "data": data}, separators=(",", ":"))

    assert model_call(event("llm_call", call="x.1")) == "x.1"
    assert model_call(event("http", call="x.1")) == ""
    assert model_call(event("log", type="llm_call", call="x.1")) == ""
    assert model_call(event("log", message='"type":"llm_call"')) == ""
