"""The database of runs: its alias, and this thread's connection and transactions there.

A site's router may keep the apps ``runs`` and ``identity`` in another database than ``default``.
Querysets ask the router by themselves. Statements and transactions would go to ``default``, so all
code of runs takes these three names from here instead of from ``django.db``.

The users are in the same database: foreign keys lead to them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from django.apps import apps
from django.core.signals import setting_changed
from django.db import connections, router, transaction
from django.db.models import Model

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["alias", "atomic", "connection", "is_here", "on_commit"]


@cache  # a router is Python code, and each statement needs the answer
def alias() -> str:
    """Return the alias of the database that has the runs; the router is asked once."""
    return str(router.db_for_write(apps.get_model("runs", "RunRecord")))


@cache
def is_here(model: type[Model]) -> bool:
    """Tell whether the rows of another app's model are in the same database."""
    return router.db_for_write(model) == alias() and router.allow_migrate_model(alias(), model)


class _Connection:
    """As ``django.db.connection``: what it is asked for, this thread's connection has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(connections[alias()], name)


connection = cast("BaseDatabaseWrapper", _Connection())


def atomic(*, savepoint: bool = True) -> transaction.Atomic:
    return transaction.atomic(using=alias(), savepoint=savepoint)


def on_commit(call: Callable[[], object], *, robust: bool = False) -> None:
    transaction.on_commit(call, using=alias(), robust=robust)


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("DATABASES", "DATABASE_ROUTERS", "AUTH_USER_MODEL"):
        alias.cache_clear()
        is_here.cache_clear()


setting_changed.connect(_forget, dispatch_uid="runs.db.alias")
