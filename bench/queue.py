"""How fast workers claim from a long queue: fresh, with stale statistics, after a million runs.

PostgreSQL plans by statistics. If it analyses the table while the queue is empty, its plan sorts
all 20,000 rows for each claim.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .measure import Figure, distribution, single
from .site import fresh_cluster, fresh_site

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from runs.queue.limits import Limits

__all__ = ["fill", "measure", "measure_postgres"]

QUEUED = 20_000
FINISHED = 1_000_000
CLAIMS = 200  # of each kind and size
SIZES = (1, 50)


def measure() -> Iterator[Figure]:
    """On SQLite."""
    with fresh_site() as user:
        yield from _measure(user, "SQLite")


def measure_postgres() -> Iterator[Figure]:
    """On PostgreSQL, with each kind of statistics that its planner may have."""
    with fresh_cluster() as user:
        from runs.queue.limits import NO_LIMITS

        fill(user, 10, status="success")
        _execute("ALTER TABLE runs_runrecord SET (autovacuum_enabled = off)")
        _execute("ANALYZE runs_runrecord")
        yield from _measure(user, "PostgreSQL, analysed while nearly empty")
        _execute("VACUUM ANALYZE runs_runrecord")
        where = f"PostgreSQL, analysed with {FINISHED:,} finished runs"
        yield from _claims(user, f"{where}, {QUEUED:,} queued", NO_LIMITS)


def _measure(user: User, where: str) -> Iterator[Figure]:
    from runs.queue.limits import Limits, limits

    several = Limits({"bench-trivial": QUEUED, "another": 5}, per_owner=QUEUED)
    yield from _claims(user, f"{where}, {QUEUED:,} queued", limits())
    yield from _claims(user, f"{where}, {QUEUED:,} queued of 1,000 owners", limits(), owners=1000)
    yield from _claims(user, f"{where}, {QUEUED:,} queued, with limits", several)
    yield from _claims(user, f"{where}, after as many of an agent at its limit", several, full=True)
    fill(user, FINISHED, status="success")
    yield from _claims(user, f"{where}, and {FINISHED:,} finished", limits())


def _claims(
    user: User, where: str, allowed: Limits, *, owners: int = 1, full: bool = False
) -> Iterator[Figure]:
    from django.utils import timezone

    from runs.queue import claims

    worker = _worker()
    if full:
        fill(user, 5, status="running", agent="another")
        fill(user, QUEUED, agent="another")
    fill(user, QUEUED, owners=owners, first_turn=QUEUED)
    for size in SIZES:
        times = []
        for _ in range(CLAIMS):
            started = time.perf_counter()
            taken = claims.claim(worker, size, timezone.now(), allowed)
            times.append((time.perf_counter() - started) * 1000)
            assert len(taken) == size
        claims = distribution(f"{where}: a claim of {size}", "ms", times)
        yield claims
        yield single(
            f"{where}: runs claimed",
            "1/s",
            size * 1000 / claims.median,
            count=CLAIMS * size,
            note="by one worker, from the median",
        )
    # As in production: no vacuum has run since the last changes.
    _execute(
        "UPDATE runs_runrecord SET status = 'success', started_at = created_at,"
        " finished_at = created_at, attempt = 1 WHERE status IN ('queued', 'running')"
    )


def fill(
    user: User,
    count: int,
    *,
    status: str = "queued",
    agent: str = "bench-trivial",
    owners: int = 1,
    first_turn: int = 0,
) -> None:
    """Insert runs in one statement, without inputs, so that no worker can execute them.

    They get the turns that ``queue.next_turn`` gives if the owners start them one by one.
    """
    from django.contrib.auth.models import User
    from django.db import connection

    from runs.models import RunRecord

    ids = [user.pk]
    if owners > 1:
        names = [f"owner-{n}" for n in range(owners)]
        User.objects.bulk_create([User(username=name) for name in names], ignore_conflicts=True)
        ids = list(User.objects.filter(username__in=names).values_list("pk", flat=True))
    started_at = "created_at" if status != "queued" else "NULL"
    pattern = _pattern(user)
    columns = {field.column: f"pattern.{field.column}" for field in RunRecord._meta.concrete_fields}
    columns |= {
        "id": "made.id",
        "root_id": "made.id",
        "owner_id": f"{min(ids)} + made.n % {owners}",
        "agent": f"'{agent}'",
        "status": f"'{status}'",
        "turn": f"{first_turn} + made.n / {owners}",
        "started_at": started_at,
        "finished_at": started_at if status == "success" else "NULL",
        "attempt": "0" if status == "queued" else "1",
    }
    assert max(ids) - min(ids) == owners - 1, "the owners' ids are not consecutive"
    if connection.vendor == "postgresql":
        made = f"SELECT gen_random_uuid() AS id, n FROM generate_series(0, {count - 1}) AS n"
    else:
        made = (
            "WITH RECURSIVE numbers(n) AS"
            f" (SELECT 0 UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"
            " SELECT lower(hex(randomblob(16))) AS id, n FROM numbers"
        )
    _execute(
        f"WITH made AS MATERIALIZED ({made})"
        f" INSERT INTO runs_runrecord ({', '.join(columns)})"
        f" SELECT {', '.join(columns.values())} FROM made, runs_runrecord AS pattern"
        f" WHERE pattern.id = '{pattern}'"
    )


def _pattern(user: User) -> str:
    """Return the id of a finished run as a pattern to copy, in the database's own format."""
    from django.db import connection
    from django.utils import timezone

    from runs.models import RunRecord, uuid7

    known = RunRecord.objects.filter(agent="pattern").first()
    if known is None:
        id, now = uuid7(), timezone.now()
        known = RunRecord.objects.create(
            id=id, root_id=id, owner=user, agent="pattern", status="success",
            started_at=now, finished_at=now, attempt=1, result=1,
        )  # fmt: skip
    return str(known.pk) if connection.vendor == "postgresql" else known.pk.hex


def _worker() -> Any:
    from runs.actions import leases
    from runs.models import WorkerRecord

    known = WorkerRecord.objects.first()
    return known.pk if known else leases.register_worker(1, 3600).pk


def _execute(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
