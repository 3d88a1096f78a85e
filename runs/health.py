"""Health, for a load balancer or an orchestrator. Neither answer needs an identity.

GET /health/live   200 while the process can answer at all; no database, so that a database
                   that is away doesn't get every process restarted
GET /health/ready  200 {status: "ready", checks: {...}}, or 503 while draining or while
                   something that every request needs is away
"""

from __future__ import annotations

import logging

from django.core.cache import cache
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

__all__ = ["live", "ready"]

logger = logging.getLogger(__name__)


@require_safe
@never_cache
def live(request: HttpRequest) -> JsonResponse:
    """Say that the process is alive."""
    return JsonResponse({"status": "alive"})


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """Say whether requests should be sent here."""
    checks = {
        "database": "ok" if _database_answers() else "away",
        "cache": "ok" if _cache_answers() else "away",
        "worker": "draining" if _is_draining(request) else "ok",
    }
    is_ready = all(answer == "ok" for answer in checks.values())
    return JsonResponse(
        {"status": "ready" if is_ready else "not ready", "checks": checks},
        status=200 if is_ready else 503,
    )


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        logger.warning("the database doesn't answer", exc_info=True)
        return False
    return True


def _cache_answers() -> bool:
    try:
        cache.get("health")
    except Exception:
        # Every cache backend has errors of its own.
        logger.warning("the cache doesn't answer", exc_info=True)
        return False
    return True


def _is_draining(request: HttpRequest) -> bool:
    """Ask the server's lifespan (project/lifespan.py); without one, nothing is ever drained."""
    state = getattr(request, "scope", {}).get("state") or {}
    return bool(getattr(state.get("lifespan"), "is_draining", False))
