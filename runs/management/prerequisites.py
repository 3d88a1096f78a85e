"""What must be there before a process serves or works: settings, a database, its tables.

Each is asked for in words that an operator can act on. A database that is not there *yet* is waited
for: where everything starts at once it is the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

__all__ = ["await_database", "require_migrations", "require_production_settings"]

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
NAMED_COUNT = 3  # of the missing migrations


def require_production_settings(*, serves_pages: bool = True) -> None:
    """Say at once what would otherwise fail at start-up or at the first request.

    Raises:
        CommandError: DJANGO_ALLOWED_HOSTS (if it ``serves_pages``) or DJANGO_SECRET_KEY is not set.
    """
    if serves_pages and not settings.ALLOWED_HOSTS:
        raise CommandError("Set DJANGO_ALLOWED_HOSTS (or, on your own machine, DJANGO_DEBUG=1).")
    if settings.SECRET_KEY.startswith("django-insecure-"):
        raise CommandError("Set DJANGO_SECRET_KEY (or, on your own machine, DJANGO_DEBUG=1).")


def await_database(
    say: Callable[[str], object], *, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return once the database answers.

    Raises:
        CommandError: it did not within ``patience_seconds``.
    """
    end = time.monotonic() + patience_seconds
    has_said = False
    while (error := _complaint()) is not None:
        if time.monotonic() >= end:
            raise CommandError(f"The database (DATABASE_URL) doesn't answer: {_one_line(error)}")
        if not has_said:
            has_said = True
            say(
                f"The database (DATABASE_URL) doesn't answer yet; "
                f"waiting for it, for at most {patience_seconds:g} s: {_one_line(error)}"
            )
        time.sleep(PAUSE_SECONDS)


def require_migrations() -> None:
    """Look whether the database has the tables that this code needs.

    Raises:
        CommandError: it has not.
    """
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    connection.close()
    if plan:
        names = [f"{migration.app_label}.{migration.name}" for migration, _ in plan]
        others = len(names) - NAMED_COUNT
        more = f" and {others} more" if others > 0 else ""
        raise CommandError(
            f"The database lacks migrations ({', '.join(names[:NAMED_COUNT])}{more}): "
            "run `manage.py migrate` first."
        )


def _one_line(error: DatabaseError) -> str:
    return " ".join(str(error).split())


def _complaint() -> DatabaseError | None:
    # Without the pool, which would wait for five seconds and not say what was in its way.
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
