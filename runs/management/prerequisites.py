"""What a process needs before it serves or works: settings, a database, its tables.

Each error says what the operator can do. A process waits for its database, which is often the last
of several services to start.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError
from django.db.migrations.executor import MigrationExecutor

from runs.conf import PUBLISHED_KEY
from runs.db.alias import connection

__all__ = ["await_database", "require_migrations", "require_production_settings"]

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0


def require_production_settings(*, serves_pages: bool = True) -> None:
    """Check the settings without which the start-up or the first request would fail.

    Raises:
        CommandError: DJANGO_ALLOWED_HOSTS (if it ``serves_pages``) or DJANGO_SECRET_KEY is not set.
    """
    if serves_pages and not settings.ALLOWED_HOSTS:
        raise CommandError("Set DJANGO_ALLOWED_HOSTS (or, on your own machine, DJANGO_DEBUG=1).")
    if settings.SECRET_KEY.startswith(PUBLISHED_KEY):
        raise CommandError("Set DJANGO_SECRET_KEY (or, on your own machine, DJANGO_DEBUG=1).")


def await_database(
    say: Callable[[str], object], *, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return once the database answers.

    Raises:
        CommandError: it did not answer within ``patience_seconds``.
    """
    end = time.monotonic() + patience_seconds
    has_said = False
    while (error := _complaint()) is not None:
        reason = " ".join(str(error).split())
        if time.monotonic() >= end:
            raise CommandError(f"The database (DATABASE_URL) doesn't answer: {reason}")
        if not has_said:
            has_said = True
            say(
                f"The database (DATABASE_URL) doesn't answer yet; "
                f"waiting for it, for at most {patience_seconds:g} s: {reason}"
            )
        time.sleep(PAUSE_SECONDS)


def require_migrations() -> None:
    """Check that the database has the tables that this code needs.

    Raises:
        CommandError: migrations are missing.
    """
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    connection.close()
    if plan:
        first = plan[0][0]
        raise CommandError(
            f"The database lacks {len(plan)} migrations (the first: {first.app_label}.{first.name})"
            ": run `manage.py migrate`."
        )


def _complaint() -> DatabaseError | None:
    # Without the pool, which would wait for five seconds and hide the reason.
    alone = connection.copy()
    alone.settings_dict["OPTIONS"].pop("pool", None)
    try:
        with alone.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return error
    finally:
        alone.close()
    return None
