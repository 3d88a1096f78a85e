"""Which database the statements of runs go to; tests/installed has whole sites with another one."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from runs.db import alias
from runs.models import RunRecord


class _Router:
    """Keeps the app ``runs`` elsewhere, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        self.asked += 1
        return "elsewhere" if model._meta.app_label == "runs" else None


def test_by_default_it_is_the_default_one() -> None:
    assert alias.alias() == "default"
    assert alias.connection.settings_dict is connections["default"].settings_dict
    assert alias.is_here(User)


def test_a_router_decides(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [_Router()]
    assert alias.alias() == "elsewhere"
    assert not alias.is_here(User)
    assert alias.is_here(RunRecord)
    for use in (
        lambda: alias.connection.vendor,
        lambda: alias.atomic().__enter__(),
        lambda: alias.on_commit(print),
    ):
        with pytest.raises(ConnectionDoesNotExist, match="elsewhere"):
            use()
    settings.DATABASE_ROUTERS = []
    assert alias.alias() == "default"


def test_a_router_is_asked_once(settings: Any) -> None:
    router = _Router()
    settings.DATABASE_ROUTERS = [router]
    for _ in range(10):
        assert alias.alias() == "elsewhere"
    assert router.asked == 1


#: These name the database, or mean all of them.
_ALL_DATABASES = {"db/alias.py", "web/self_contained.py"}


def test_no_module_of_ours_takes_these_names_from_django() -> None:
    """There they are of the default database."""
    root = Path(apps.get_app_config("runs").path)
    found = [
        f"{path.relative_to(root)} (line {node.lineno}) imports {name.name}"
        for path in root.rglob("*.py")
        if str(path.relative_to(root)) not in _ALL_DATABASES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in {"django.db", "django.db.utils"}
        for name in node.names
        if name.name in {"connection", "transaction", "DEFAULT_DB_ALIAS"}
    ]
    assert not found, "\n".join(found)
