"""The runs of this process: what waits for a claim, and what does not."""

from __future__ import annotations

from agents import Tools, agent
from runs.delivery import local_runs
from runs.worker.worker import Worker
from tests.support.journal import Journal
from tests.support.running import Gate, Start, in_thread


def test_a_run_may_end_while_a_claim_waits_for_the_database(
    worker: Worker, start: Start, log: Journal
) -> None:
    """The agent loop does not wait with it."""
    claim_waits, agent_waits = Gate(), Gate()

    @agent("waiting")
    async def waiting(tools: Tools) -> str:
        await agent_waits.wait()
        return "done"

    def hold_claims() -> None:
        with local_runs.claiming():
            claim_waits.wait_here()

    runs = [start("waiting") for _ in range(2)]
    agent_waits.until_arrived(2)
    with in_thread(hold_claims):
        claim_waits.until_arrived()
        try:
            with (
                local_runs.watching(runs[0].pk) as first,
                local_runs.watching(runs[1].pk) as second,
            ):
                agent_waits.open()
                assert first.wait(5)
                assert second.wait(5)
        finally:
            claim_waits.open()
    assert [r.result for r in log.until_over(*runs)] == ["done", "done"]
