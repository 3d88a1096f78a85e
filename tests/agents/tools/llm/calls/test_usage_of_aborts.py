"""What calls are said to have used that an abort has cut, beside a model server's own count."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from agents import AgentStopped
from agents.tools.llm.client import Model, call_llm
from tests.support.agent_run import AgentRun, within
from tests.support.llm_server import Answer, LLMServer

SECONDS = 20.0
AT_A_TIME = 20
#: How many calls are aborted; more by hand: ABORTS=1000.
ABORTS = int(os.environ.get("ABORTS", "100"))

#: Four characters each on average, as the estimate has it: in other languages the same text may
#: have two or six.
TOKENS = ["The", " tug", " went", " to", " the", " north", "ern", " coast", ",", " where", " ice",
          " had", " clos", "ed", " the", " harb", "our", " for", " months", "."]  # fmt: skip


class Count:
    """What a model server has counted: a chunk for each token, and the request's own tokens."""

    def __init__(self) -> None:
        self.tokens = 0

    def stream(self) -> Iterator[Any]:
        for token in itertools.cycle(TOKENS):
            self.tokens += 1
            yield {"choices": [{"index": 0, "delta": {"content": token}}]}


@pytest.mark.parametrize("moment", ["before the first token", "in the middle"])
async def test_is_within_a_twentieth_of_what_the_server_has_counted(
    server: LLMServer, model: Model, moment: str
) -> None:
    assert len("".join(TOKENS)) == 4 * len(TOKENS)
    chance = random.Random(1)
    counts, runs = [], []
    if moment == "before the first token":
        server.hold("start")

    async def aborted() -> None:
        repeats = chance.randint(1, 20)
        prompt = [{"role": "user", "content": "".join(TOKENS) * repeats}]
        run, tokens = AgentRun(), chance.randint(1, 100)
        runs.append(run)
        call = run.task(call_llm(run.guard, model, prompt))
        if moment == "before the first token":
            await asyncio.sleep(0.2 * chance.random())
        else:
            while len(run.shown) < 4 * tokens:
                await asyncio.sleep(0.001)
        run.stop("abort")
        with pytest.raises(AgentStopped):
            await call
        event = run.only("llm_call")
        if event.get("sent") is not False:
            counts.append(repeats * len(TOKENS))
            assert event["input_tokens"] == repeats * len(TOKENS)
        assert (event.get("output_tokens", 0) > 0) == bool(run.shown)

    for _ in range(0, ABORTS, AT_A_TIME):
        streams = [Count() for _ in range(AT_A_TIME)]
        server.answers.extend(Answer(chunks=each.stream(), pause=0.001) for each in streams)
        await within(SECONDS, asyncio.gather(*(aborted() for _ in range(AT_A_TIME))))
        server.answers.clear()
        counts += [each.tokens for each in streams]
    counted = sum(counts)
    said = sum(r.trace.usage.input_tokens + r.trace.usage.output_tokens for r in runs)
    assert all(r.trace.usage.estimated for r in runs if r.trace.usage.llm_calls)
    assert said == pytest.approx(counted, rel=0.05)
    server.release()
