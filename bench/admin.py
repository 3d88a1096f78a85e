"""The admin: opening its list with many runs in the table, and a bulk stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from .measure import Figure, distribution, single
from .site import fresh_site

__all__ = ["measure"]

RUNS = 100_000
OWNERS = 200
ROUNDS = 15
BULK = 5_000
MOST_MILLISECONDS = 300
LIST = "/admin/runs/runrecord/"

#: Views of the list that operators open. The target is for "opens".
VIEWS = {
    "opens": {},
    "its last page": {"p": str(RUNS // 50)},
    "oldest first": {"o": "4"},
    "stopping": {"status": "stopping"},
    "not over": {"status": "active"},
    "errors": {"status": "error"},
    "one owner": {"owner": "owner-7"},
    "one day": {
        "created_at__gte": "2026-01-09 00:00+00:00",
        "created_at__lt": "2026-01-10 00:00+00:00",
    },
    "a search": {"q": "number 31 of"},
}


def measure() -> Iterator[Figure]:
    """Measure with Django's test client: the database and the rendering, without the network.

    The unit is processor time, which excludes other work on the machine. SQLite runs in this
    process.
    """
    with fresh_site() as user:
        from django.test import Client

        user.is_staff = user.is_superuser = True
        user.save()
        _fill(user)
        client = Client(SERVER_NAME="127.0.0.1", headers={"X-Forwarded-Proto": "https"})
        client.force_login(user)
        client.get(LIST)  # imports, templates
        for name, query in VIEWS.items():
            yield distribution(
                f"admin list of {RUNS:,} runs: {name}",
                "ms",
                _times(lambda query=query: client.get(LIST, query)),  # type: ignore[misc]
                target=MOST_MILLISECONDS,
            )
        yield _stop_many(user)


def _times(call: Callable[[], Any]) -> list[float]:
    found = []
    for _ in range(ROUNDS):
        started = time.process_time()
        answer = call()
        found.append((time.process_time() - started) * 1e3)
        assert answer.status_code == 200, answer.status_code
    return found


def _stop_many(user: Any) -> Figure:
    from runs.actions import stopping
    from runs.models import RunRecord, StopVia

    runs = RunRecord.objects.filter(status="running", stop_requested_at=None)
    ids = list(runs.values_list("pk", flat=True)[:BULK])
    assert len(ids) == BULK, len(ids)
    started = time.perf_counter()
    outcomes = stopping.stop_many(ids, by=user, via=StopVia.ADMIN, reason="bench")
    took = time.perf_counter() - started
    assert {one.outcome for one in outcomes} == {"accepted"}
    return single(f"stop {BULK:,} runs by the admin's action", "s", took, count=BULK, target=30)


def _fill(user: Any) -> None:
    """Insert runs like those of a few weeks of use; most are finished."""
    from datetime import UTC, datetime

    from django.contrib.auth.models import User

    from runs.actions import leases
    from runs.models import RunInput, RunRecord, uuid7

    worker = leases.register_worker(capacity=BULK * 2, lease_seconds=3600)
    owners = [
        *User.objects.bulk_create(User(username=f"owner-{number}") for number in range(OWNERS)),
        user,
    ]
    first = datetime(2026, 1, 1, tzinfo=UTC)
    statuses = ["success"] * 7 + ["stopped", "error", "success"]
    for start in range(0, RUNS, 5_000):
        records, inputs = [], []
        for number in range(start, start + 5_000):
            id, at = uuid7(), first + timedelta(minutes=number)
            is_alive = number >= RUNS - BULK - 20
            status = "running" if is_alive else statuses[number % len(statuses)]
            wanted_stop = status == "stopped" or (is_alive and number % 1_000 == 0)
            records.append(
                RunRecord(
                    id=id,
                    root_id=id,
                    agent=f"agent-{number % 12}",
                    owner=owners[number % len(owners)],
                    status=status,
                    worker=worker,
                    attempt=1,
                    created_at=at,
                    started_at=at,
                    finished_at=None if is_alive else at + timedelta(seconds=90),
                    result=None if is_alive else {"text": "a line of the result " * 30},
                    error={"code": "x", "type": "X", "message": "x"} if status == "error" else None,
                    llm_calls=3,
                    input_tokens=12_345,
                    stop_requested_at=at if wanted_stop else None,
                    stop_mode="graceful" if wanted_stop else "",
                )
            )
            text = f"Document number {number} of many. " * 8
            inputs.append(RunInput(run_id=id, value={"document": text}, size_bytes=len(text)))
        RunRecord.objects.bulk_create(records)
        RunInput.objects.bulk_create(inputs)
