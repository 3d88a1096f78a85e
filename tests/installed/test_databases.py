"""Sites whose databases are not set up as the checkout's."""

from __future__ import annotations

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.new_site import NewSite
from tests.support.user_models import AGENTS, site_of_people

#: All of runs, and what its tables refer to, in a second database.
_ROUTER = """
APPS = {"runs", "identity", "people", "auth", "contenttypes", "admin", "sessions"}

class Router:
    def db_for_read(self, model, **hints):
        return "agents_db" if model._meta.app_label in APPS else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return (db == "agents_db") == (app_label in APPS)
"""
_SETTINGS = """
DATABASES = {{
    "default": {default},
    "agents_db": {{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "agents.sqlite3"}},
}}
DATABASE_ROUTERS = ["mysite.routers.Router"]
"""
_EMPTY = "{}"
_UNTOUCHED = '{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "default.sqlite3"}'


def _tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows} - {"sqlite_sequence"}


@pytest.mark.parametrize(
    "default",
    [
        pytest.param(_EMPTY, id="empty", marks=pytest.mark.thorough),
        pytest.param(_UNTOUCHED, id="untouched"),
    ],
)
def test_a_router_may_keep_the_runs_in_another_database(
    default: str, tmp_path: Path, package: Path
) -> None:
    site = site_of_people(tmp_path, package, "Person")
    site.write("mysite/routers.py", _ROUTER)
    site.append("mysite/settings.py", _SETTINGS.format(default=default))
    site.manage("migrate", "-v0", "--database=agents_db")
    if default == _UNTOUCHED:
        site.manage("migrate", "-v0")
    site.add_user("root@example.org", is_superuser=True)
    token = site.token("root@example.org")
    with site.served() as client:
        client.headers["Authorization"] = f"Token {token}"
        input = {"agent": "greet", "input": {"name": "Ann"}}
        run = NewSite.finished(client, client.post("runs", json=input).json()["id"])
        assert (run["status"], run["last_seq"]) == ("success", 3)
        id = client.post("runs", json={"agent": "wait", "input": {}}).json()["id"]
        stopped = client.post(f"runs/{id}/stop?wait=30").json()
        assert stopped["status"] == "stopped", stopped
        assert client.get("health/ready").status_code == 200
        with httpx.Client(base_url=client.base_url, timeout=60) as browser:
            NewSite.sign_in(browser, "root@example.org")
            assert id in browser.get("admin/runs/runrecord/").text
            assert "root@example.org" in browser.get(f"admin/runs/runrecord/{id}/history/").text
        log: list[str] = client.log  # type: ignore[attr-defined]
        assert not [line for line in log if "rror" in line], log
    said = site.manage("run_agent", "greet", "--input", "name=Ben", "--user", "root@example.org")
    assert "Hello, Ben." in said
    assert site.manage("delete_old_runs", "--older-than", "0h").startswith("3 runs")
    if default == _UNTOUCHED:
        assert _tables(tmp_path / "default.sqlite3") == {"django_migrations"}


@pytest.mark.thorough
def test_a_fresh_sqlite_takes_twenty_writers_at_a_time(tmp_path: Path, package: Path) -> None:
    site = NewSite(tmp_path, package)
    site.add_agents(AGENTS)
    site.manage("migrate", "-v0")
    site.add_user("ann")
    token = site.token("ann")
    answers: Counter[int] = Counter()

    def start_and_stop(client: httpx.Client) -> None:
        for _ in range(5):
            started = client.post("runs", json={"agent": "wait", "input": {}})
            stopped = client.post(f"runs/{started.json()['id']}/stop?wait=60")
            answers.update([started.status_code, stopped.status_code])

    with site.served() as client, ThreadPoolExecutor(20) as threads:
        client.headers["Authorization"] = f"Token {token}"
        list(threads.map(start_and_stop, [client] * 20))
        log: list[str] = client.log  # type: ignore[attr-defined]
        assert not [line for line in log if "locked" in line]
    assert answers == {201: 100, 200: 100}


_OPTIONS = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("PRAGMA journal_mode")
    print(cursor.fetchone()[0], connection.transaction_mode, connection.settings_dict["OPTIONS"])
"""


def test_sqlite_gets_the_options_that_the_site_has_not_set(tmp_path: Path, package: Path) -> None:
    site = NewSite(tmp_path, package)
    said = site.shell(_OPTIONS)
    assert said.startswith("wal IMMEDIATE ")
    assert "'timeout': 20" in said
    own = '{"timeout": 3, "transaction_mode": "DEFERRED", "init_command": "PRAGMA foreign_keys=ON"}'
    site.append("mysite/settings.py", f'DATABASES["default"]["OPTIONS"] = {own}\n')
    (tmp_path / "db.sqlite3").unlink()
    said = site.shell(_OPTIONS)
    assert said.startswith("delete DEFERRED ")
    assert "'timeout': 3," in said


def test_naive_instants_are_refused_by_a_check(tmp_path: Path, package: Path) -> None:
    site = NewSite(tmp_path, package, settings="USE_TZ = False\n")
    assert "runs.E005" in site.manage("check", is_expected_to_fail=True)
