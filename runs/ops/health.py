"""Health, for a load balancer or an orchestrator. Neither answer needs an identity.

GET /health/live   200 while the process can answer at all. It does not ask the database, because
                   an outage of the database must not restart every process
GET /health/ready  200 {status: "ready", degraded, checks: {database, cache, worker, agents}}, or
                   503 with status "not ready": the database is away or takes no writes, the
                   process is draining, or its worker's lease has run out

A missing service that the process can do without makes it ``degraded``, not unready. Without Redis
stops and runs still work, because the database is the truth. An outage of Redis hits all processes
at once: a balancer that took them all out would have none left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_not_required
from django.core.cache import cache
from django.db import Error
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from runs.db import writability
from runs.db.alias import connection

from .probing import ask

if TYPE_CHECKING:
    from runs.worker.worker import Worker

__all__ = ["live", "ready"]

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0  # a service that takes longer is away
BLOCKED_SECONDS = 10.0  # an agent that blocks the agents' loop longer is reported

_UNREADY_WORKERS = frozenset({"draining", "lost"})
_FINE = frozenset({"ok", "none"})


@login_not_required
@require_safe
@never_cache
def live(request: HttpRequest) -> JsonResponse:
    """Say that the process is alive."""
    return JsonResponse({"status": "alive"})


@login_not_required
@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """Say whether requests should be sent here."""
    lifespan = getattr(request, "scope", {}).get("state", {}).get("lifespan")
    worker: Worker | None = getattr(lifespan, "worker", None)
    checks = {
        "database": _database_word(),
        "cache": "ok" if _answers("cache", _ask_cache) else "away",
        "worker": _worker_word(worker, is_draining=getattr(lifespan, "is_draining", False)),
        "agents": _agents_word(worker),
    }
    is_ready = checks["database"] == "ok" and checks["worker"] not in _UNREADY_WORKERS
    return JsonResponse(
        {
            "status": "ready" if is_ready else "not ready",
            "degraded": is_ready and not _FINE.issuperset(checks.values()),
            "checks": checks,
        },
        status=200 if is_ready else 503,
    )


def _database_word() -> str:
    """Say whether the database answers and takes writes; a probe writes nothing itself."""
    if not _answers("database", _ask_database):
        return "away"
    return writability.refusal() or "ok"


def _worker_word(worker: Worker | None, *, is_draining: bool) -> str:
    if is_draining:  # also without a worker: the process is about to end
        return "draining"
    if worker is None:
        return "none"
    return "lost" if worker.is_fenced else "ok"


def _agents_word(worker: Worker | None) -> str:
    """Say whether agents get on: others may be blocked by one, or by what was abandoned.

    Neither is a reason to send requests elsewhere.
    """
    if worker is None:
        return "none"
    seconds = worker.blocked_seconds
    if seconds >= BLOCKED_SECONDS:
        return f"blocked for {seconds:.0f} s"
    return "abandoned_code" if worker.abandoned_count else "ok"


def _ask_database() -> None:
    try:
        with connection.cursor() as cursor:
            if connection.vendor != "postgresql":
                cursor.execute("SELECT 1")
                return
            # Also on for a server in recovery.
            cursor.execute("SELECT current_setting('transaction_read_only')")
            if cursor.fetchone() == ("on",):
                writability.note(writability.READ_ONLY)
    finally:
        connection.close()


def _ask_cache() -> None:
    cache.get("health")


def _answers(name: str, question: Callable[[], None]) -> bool:
    try:
        ask(question, CHECK_SECONDS)
    except TimeoutError:
        logger.warning("the %s has not answered for %g s", name, CHECK_SECONDS)
        return False
    except Exception as error:
        # Each database and each cache has errors of its own.
        is_known = isinstance(error, Error | OSError)
        logger.warning("the %s doesn't answer (%s)", name, error if is_known else repr(error))
        return False
    return True
