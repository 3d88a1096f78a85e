"""Turns: no owner takes them all, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from agents.process.turns import Turns
from tests.support.agent_run import turn_loop


async def test_an_owner_waits_for_its_own_turns_and_another_does_not() -> None:
    turns = Turns(3, per_owner=2)
    ends = [await turns.take("a") for _ in range(2)]
    third = asyncio.ensure_future(turns.take("a"))
    await turn_loop()
    assert not third.done()

    end_of_b = await turns.take("b")
    waiting = asyncio.ensure_future(turns.take("c"))
    await turn_loop()
    assert not waiting.done()  # three are in

    ends[0]()
    (await waiting)()
    (await third)()
    ends[1]()
    end_of_b()


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    turns = Turns(1, per_owner=1)
    end = await turns.take("a")
    for owner in ("a", "b"):
        waiting = asyncio.ensure_future(turns.take(owner))
        await turn_loop()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    end()
    for owner in ("a", "b"):
        (await turns.take(owner))()


def test_each_loop_counts_by_itself() -> None:
    turns = Turns(1, per_owner=1)
    for _ in range(2):
        asyncio.run(turns.take("a"))  # type: ignore[arg-type]


async def test_an_owner_without_a_turn_gets_one_beyond_the_bound_where_that_is_so() -> None:
    turns = Turns(1, per_owner=2, one_beyond=True)
    end_of_a = await turns.take("a")
    end_of_b = await turns.take("b")
    second = asyncio.ensure_future(turns.take("b"))
    await turn_loop()
    assert not second.done()
    end_of_b()
    (await second)()
    end_of_a()


async def test_a_turn_that_comes_together_with_a_cancellation_is_given_back() -> None:
    turns = Turns(1, per_owner=1)
    end = await turns.take("a")
    waiting = asyncio.ensure_future(turns.take("b"))
    await turn_loop()
    end()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (await turns.take("c"))()
