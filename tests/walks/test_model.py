"""Workers that crash, freeze and return, in every order that hypothesis can find.

The code is the real one, called step by step (``tests/support/simulated``): starts and stops;
workers that claim, renew, recover, execute, write, delete old runs, and drain. Between any two
steps or statements a process may die, or lose its connection before or after a commit. Messages are
lost, late or doubled. Leases end unnoticed. The clock of each host is wrong by another amount.

``MODEL_EXAMPLES=2000`` tries more examples, on PostgreSQL too (``-m ""`` with DATABASE_URL).
``MODEL_SHRINK=1`` takes minutes to find the shortest failure. ``MODEL_BLOB=...``, with the text of
the output's ``@reproduce_failure``, repeats an example.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, Phase, reproduce_failure, settings
from hypothesis.stateful import run_state_machine_as_test

from agents import AgentError, agent
from agents.guard import Call
from runs import conf
from runs.actions import abandoning, leases
from runs.db import transactions
from runs.delivery import notify
from runs.worker import recorder, started_runs, worker
from tests.support.simulated.clock import CLOCK, Host
from tests.support.simulated.processes import LEASE_SECONDS, SimulatedExecutor
from tests.support.simulated.seen import SEEN
from tests.support.simulated.world import KEEP_DAYS, KEEP_LOGS_DAYS, World, send_stops

# One example takes a second, and each run of the suite tries others. Both databases see the same
# code; only the statements differ, which an example meets by the hundred.
EXAMPLES = {"here": 5, "postgres": 3}
STEPS = 50
BRIEF_SECONDS, SILENT_SECONDS = 12.0, 6.0


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Replace threads, time and messages by simulated ones."""
    caplog.set_level(logging.CRITICAL)  # workers are lost by the hundred here
    monkeypatch.setattr(logging.getLogger("runs"), "disabled", True)
    monkeypatch.setattr(
        recorder.logger, "exception", lambda words, *_, **__: World.complaints.append(words)
    )
    monkeypatch.setattr(World, "complaints", [])
    CLOCK.install(monkeypatch)
    monkeypatch.setattr(conf, "_overrides", {})
    monkeypatch.setattr(leases, "host_identity", lambda: Host.here.name)
    monkeypatch.setattr(worker, "Executor", SimulatedExecutor)
    monkeypatch.setattr(notify, "send_stops", send_stops)
    monkeypatch.setattr(recorder, "RETRY_SECONDS", (0.0,))
    # A process looks each hour; here weeks may pass in which none does.
    monkeypatch.setattr(abandoning, "RECENT", timedelta(days=10_000))
    monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(started_runs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(started_runs, "RETRY_SECONDS", 0.0)
    # Without a loop no wait is cut: one that an abort has met goes on to the child's end.
    monkeypatch.setattr(Call, "uninterrupted", lambda _, work, *, is_wait: work)
    World.loop = asyncio.new_event_loop()  # only its futures are used; it never runs
    yield
    World.loop.close()


@pytest.fixture
def agents() -> None:
    """Declare the agents that may be started; their code never runs."""

    async def code(tools: Any) -> str:
        raise AgentError

    agent("plain")(code)
    agent("again", on_worker_loss="requeue", max_attempts=3)(code)
    agent("limited", on_worker_loss="requeue", max_concurrent=1)(code)
    agent("hasty", on_worker_loss="requeue", queue_seconds=20)(code)
    agent("urgent", priority=1)(code)
    agent("brief", on_worker_loss="requeue", deadline_seconds=BRIEF_SECONDS)(code)
    agent("silent", on_worker_loss="requeue", idle_seconds=SILENT_SECONDS)(code)


@pytest.mark.usefixtures("simulation", "agents")
def test_workers_that_crash_and_freeze_leave_no_run_in_a_false_state(
    alice: User, bob: User, options: Callable[..., None], on_both_databases: str
) -> None:
    options(LEASE_SECONDS=LEASE_SECONDS, KEEP_DAYS=KEEP_DAYS, KEEP_LOGS_DAYS=KEEP_LOGS_DAYS)
    World.owners = [alice, bob]
    blob = os.environ.get("MODEL_BLOB")
    run_state_machine_as_test(
        reproduce_failure(hypothesis.__version__, blob.encode())(World) if blob else World,
        settings=settings(
            max_examples=int(os.environ.get("MODEL_EXAMPLES") or EXAMPLES[on_both_databases]),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("MODEL_SHRINK") else [])],
            report_multiple_bugs=False,
            print_blob=True,
        ),
    )
    print(f"{World.steps} steps, {dict(SEEN)}")
