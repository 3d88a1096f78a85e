"""The harder stop that is offered, and the one that is planned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runs.status import STOPPING
from runs.wording.ladder import (
    OFFER_SECONDS,
    Offer,
    is_due,
    next_rung,
    planned,
    planned_text,
)

T0 = datetime(2024, 5, 6, 14, 3, 22, tzinfo=UTC)


def _at(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def _call(tool: str, label: str = "", started: float = 0) -> dict[str, Any]:
    return {"call": "1", "tool": tool, "label": label, "started_at": _at(started)}


def _stopping(*in_flight: dict[str, Any], **stop: Any) -> dict[str, Any]:
    stop = {
        "mode": "graceful",
        "requested_at": _at(0),
        "escalated_at": None,
        "acknowledged_at": _at(0),
        "observed_at": None,
        "abort_at": None,
        "abandon_at": None,
        **stop,
    }
    return {"id": "r", "status": STOPPING, "in_flight": list(in_flight), "stop": stop}


def _offer(*in_flight: dict[str, Any], **stop: Any) -> Offer:
    offer = next_rung(_stopping(*in_flight, **stop))
    assert offer is not None
    return offer


class TestTheOffer:
    def test_of_a_model_call_is_to_cut_it(self) -> None:
        offer = _offer(_call("call_llm", "llama3"))
        assert (offer["mode"], offer["label"]) == ("abort", "Stop now")
        assert offer["hint"] == "cuts the call in flight"
        assert offer["confirm"] is None

    def test_comes_a_few_seconds_after_the_request(self) -> None:
        offer = _offer(_call("call_llm"))
        at = T0 + timedelta(seconds=OFFER_SECONDS)
        assert not is_due(offer, at - timedelta(milliseconds=1))
        assert is_due(offer, at)
        assert not is_due(None, at)

    def test_after_a_cut_that_did_not_help_is_to_give_up(self) -> None:
        offer = _offer(_call("call_llm"), mode="abort", escalated_at=_at(60))
        assert (offer["mode"], offer["label"]) == ("abandon", "Give up on it")
        assert offer["at"] == _at(60 + OFFER_SECONDS)
        assert offer["effect"].startswith("The cut has not ended it yet. Giving up ends the run")
        assert offer["confirm"] == {
            "question": "Give up on this run?",
            "yes": "Give up on it",
            "no": "Keep waiting",
        }

    def test_of_a_stop_that_was_a_cut_from_the_start_counts_from_the_request(self) -> None:
        assert _offer(_call("call_llm"), mode="abort")["at"] == _at(OFFER_SECONDS)

    @pytest.mark.parametrize(
        ("in_flight", "stop", "why"),
        [
            ([_call("thread", "slow (agents.py:34)")], {}, "Code in a thread can't be cut."),
            ([_call("thread")], {"mode": "abort"}, "Code in a thread can't be cut."),
            ([_call("data_store.set")], {}, "A call of the data store is never cut."),
            ([], {"observed_at": _at(0)}, "It is cleaning up, which is not cut."),
            ([], {"acknowledged_at": None}, "Its worker does not answer."),
            ([], {"mode": "abort"}, "Code that computes can't be cut."),
            ([_call("process", "sh")], {"mode": "abort"}, "The cut has not ended it yet."),
            ([_call("task", "poll")], {"mode": "abort"}, "The cut has not ended it yet."),
        ],
    )
    def test_is_to_give_up_where_a_cut_can_not_help(
        self, in_flight: list[dict[str, Any]], stop: dict[str, Any], why: str
    ) -> None:
        offer = _offer(*in_flight, **stop)
        assert offer["mode"] == "abandon"
        assert offer["effect"].startswith(f"{why} ")

    @pytest.mark.parametrize(
        ("in_flight", "hint", "effect"),
        [
            ([_call("call_llm")], "cuts the call in flight", "The reply is kept as far as"),
            ([_call("http")], "cuts the call in flight", "The answer is lost"),
            ([_call("agents.call", "a")], "cuts the call in flight", "Its sub-agents are cut as"),
            (
                [_call("http"), _call("call_llm")],
                "cuts the 2 calls in flight",
                "The reply is kept as far as it has come",
            ),
            (
                [_call("call_llm"), _call("thread")],
                "cuts the call in flight",
                "The reply is kept as far as it has come",
            ),
            ([_call("process")], "interrupts its code", "No reply is lost"),
            ([], "interrupts its code", "No reply is lost"),
        ],
    )
    def test_says_what_is_cut_and_what_becomes_of_reply_money_and_data(
        self, in_flight: list[dict[str, Any]], hint: str, effect: str
    ) -> None:
        offer = _offer(*in_flight)
        assert offer["mode"] == "abort"
        assert offer["hint"] == hint
        assert offer["effect"].startswith(effect)
        assert "paid for" in offer["effect"]
        assert "stored" in offer["effect"]
        assert offer["effect"].count(". ") == 0, "one sentence"

    def test_waits_for_a_clean_up_from_its_beginning(self) -> None:
        offer = _offer(_call("data_store.set", started=41), observed_at=_at(40))
        assert (offer["mode"], offer["at"]) == ("abandon", _at(40 + OFFER_SECONDS))

    def test_is_none_after_the_last_rung_and_of_a_run_that_is_not_stopping(self) -> None:
        assert next_rung(_stopping(mode="abandon")) is None
        assert next_rung({**_stopping(), "status": "stopped"}) is None
        assert next_rung({"status": "running", "in_flight": [], "stop": None}) is None


class TestThePlan:
    def test_counts_down_to_each_rung_above(self) -> None:
        run = _stopping(abort_at=_at(10), abandon_at=_at(70))
        assert [one["mode"] for one in planned(run)] == ["abort", "abandon"]
        assert planned_text(run, T0 + timedelta(seconds=2.5)) == (
            "Cuts the calls in flight by itself in 8 s. Gives up by itself in 1:08."
        )

    def test_leaves_out_what_the_stop_is_already(self) -> None:
        run = _stopping(mode="abort", abort_at=_at(10), abandon_at=_at(70))
        assert [one["mode"] for one in planned(run)] == ["abandon"]
        assert planned(_stopping(mode="abandon", abandon_at=_at(70))) == []

    def test_leaves_out_a_cut_that_giving_up_comes_before(self) -> None:
        """Each rung was planned by another request. What is due for both is given up."""
        for seconds in (5, 10):
            run = _stopping(abort_at=_at(10), abandon_at=_at(seconds))
            assert [one["mode"] for one in planned(run)] == ["abandon"]

    def test_is_never_negative(self) -> None:
        text = planned_text(_stopping(abort_at=_at(1)), T0 + timedelta(seconds=9))
        assert text == "Cuts the calls in flight by itself in 0 s."

    def test_is_none_without_one_and_when_the_run_is_over(self) -> None:
        assert planned(_stopping()) == []
        assert planned({**_stopping(abort_at=_at(1)), "status": "stopped"}) == []
        assert planned({"status": "running", "stop": None}) == []
