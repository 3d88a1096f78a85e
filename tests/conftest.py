"""The configuration of the whole suite.

No skip is silent, a failure fails one test only, and the database is a real one. A mark says that a
test needs PostgreSQL, Redis or Chromium. If that is missing, the test is skipped, and the end of
the output says so loudly. With REQUIRE_ALL=1 any skip fails the session.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management.commands import flush
from django.db import connection, transaction

from tests.support.chromium import find_chromium
from tests.support.services import *  # noqa: F403 - fixtures

# For the processes that tests start. This process has read its settings: `make test` sets it.
os.environ.setdefault("DJANGO_DEBUG", "1")


def pytest_configure(config: pytest.Config) -> None:
    # Outside debug mode the lifespan refuses to serve with the published key, and pytest-django
    # turns DEBUG off.
    settings.SECRET_KEY = "only for tests, and long enough for every check of Django's"
    # A background job of a script ignores SIGINT, and so would all processes that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The default takes a fraction of a second for each user.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # Or each test client would read the names of all files first.
    settings.WHITENOISE_AUTOREFRESH = True
    config.pluginmanager.register(_SkipWatch(), "skip-watch")
    config.pluginmanager.register(_Aftermath(), "aftermath")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = _what_is_missing()
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Give this session a database of its own, so that two sessions don't collide.

    On SQLite it is a file, as in production. Django's default, an in-memory database shared between
    threads, answers "table is locked" when a file would wait. On PostgreSQL, sessions that run at
    the same time need different values of TEST_DATABASE_SUFFIX.
    """
    default = settings.DATABASES["default"]
    if default["ENGINE"].endswith("sqlite3"):
        name = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
    else:
        name = f"test_{default['NAME']}{os.environ.get('TEST_DATABASE_SUFFIX', '')}"
    default.setdefault("TEST", {})["NAME"] = name


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Make the flush after each test cheap.

    It puts back the rows that ``migrate`` has written, as they were: Django would ask which
    permissions and groups are missing, and write them one by one. On PostgreSQL it deletes the few
    rows that there are: TRUNCATE gives each table and each index a new file. Only that one empties
    the audit log, from which nobody may delete.
    """
    models = apps.get_models(include_auto_created=True)
    audit_log = apps.get_model("identity", "AuditEntry")._meta.db_table
    with django_db_blocker.unblock():
        kept = [(model, list(model._base_manager.all())) for model in models]

    def put_back(*_: Any) -> None:
        with transaction.atomic():  # the constraints are checked at its end
            for model, rows in kept:
                model._base_manager.bulk_create(rows)

    def delete(_style: Any, tables: Sequence[str], **_: Any) -> list[str]:
        has_audit = f"IF EXISTS (SELECT FROM {audit_log}) THEN TRUNCATE {audit_log}; END IF"
        return [
            f"DO $$ BEGIN {has_audit}; END $$",
            *(f"DELETE FROM {name}" for name in tables if name != audit_log),
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "emit_post_migrate_signal", put_back)
        if connection.vendor == "postgresql":
            patch.setattr(connection.ops, "sql_flush", delete)
        yield


@pytest.fixture(autouse=True)
def forget_usage() -> Iterator[None]:
    """Forget what this process knows of owners' quotas: the next test has other owners."""
    yield
    for name in ("runs.quotas.ledger", "runs.quotas.queued"):
        if module := sys.modules.get(name):
            module.forget()


def _what_is_missing() -> dict[str, str]:
    """Map each marker to the reason why its tests can't run here."""
    missing = {}
    if not settings.DATABASES["default"]["ENGINE"].endswith("postgresql"):
        missing["postgres"] = "needs PostgreSQL: set DATABASE_URL=postgres://..."
    if "InMemory" in settings.CHANNEL_LAYERS["default"]["BACKEND"]:
        missing["redis"] = "needs Redis: set REDIS_URL=redis://..."
    if find_chromium() is None:
        missing["browser"] = "needs an installed Chromium"
    return missing


class _SkipWatch:
    """Collects each skip, whatever its origin, and reports all at the end."""

    def __init__(self) -> None:
        self._skips: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # pytest reports an expected failure as a skip, too, but that test did run.
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        # "No tests", too: a module that skips itself as a whole has none.
        is_fine = session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
        if self._skips and is_fine and _all_required():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._skips:
            return
        verdict = "and REQUIRE_ALL says that none may be" if _all_required() else "NOT TESTED"
        terminalreporter.section(f"{len(self._skips)} skipped, {verdict}", red=True, bold=True)
        for test, reason in self._skips.items():
            terminalreporter.line(f"{test}: {reason}", yellow=True)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self._skips[report.nodeid] = str(reason).removeprefix("Skipped: ")


class _Aftermath:
    """Collects the garbage of a failed test at once, without a warning.

    Otherwise the test's frames, with their sockets, tasks and coroutines, would live until a later
    test. A warning about them would then fail that test, too.
    """

    _has_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._has_failed = self._has_failed or report.failed

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        self._has_failed = False
        outcome = yield
        if self._has_failed:
            for name in ("last_type", "last_value", "last_traceback", "last_exc"):
                vars(sys).pop(name, None)
            hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
            try:
                gc.collect()
            finally:
                sys.unraisablehook = hook
        return outcome


def _all_required() -> bool:
    return os.environ.get("REQUIRE_ALL", "").lower() not in {"", "0", "false", "no", "off"}
