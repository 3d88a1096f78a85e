"""The settings as a process finds them: each test starts one with an environment of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

_OURS = ("AGENTS_", "DJANGO_", "DATABASE_URL", "REDIS_URL", "LLM_", "RUNS_", "API_THROTTLE_RATE")

PRODUCTION = {
    "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
    "DJANGO_ALLOWED_HOSTS": "example.org",
    "DATABASE_URL": "postgres://user:password@database/halting",
    "REDIS_URL": "redis://redis:6379/0",
}


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _settings(expression: str, **environment: str) -> object:
    code = f"import json, project.settings as s; print(json.dumps({expression}, default=str))"
    done = _run("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sane_production_has_no_issue() -> None:
    done = _run("manage.py", "check", "--deploy", **PRODUCTION)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout + done.stderr


def test_a_bare_production_is_told_what_is_missing() -> None:
    done = _run("manage.py", "check", "--deploy")
    assert done.returncode == 1
    assert "DJANGO_SECRET_KEY" in done.stderr
    assert "ALLOWED_HOSTS" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_in_production_is_an_error() -> None:
    done = _run("manage.py", "check", "--deploy", DJANGO_DEBUG="1", **PRODUCTION)
    assert done.returncode == 1
    assert "runs.E003" in done.stderr


def test_a_bad_variable_is_one_line_and_no_traceback() -> None:
    done = _run("manage.py", "check", RUNS_MAX_CONCURRENT="lots")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "ImproperlyConfigured: RUNS_MAX_CONCURRENT='lots' is not understood. "
        "Accepted: a whole number of at least 1."
    ]


def test_debug_is_off_unless_set() -> None:
    assert _settings("s.DEBUG") is False
    assert _settings("s.DEBUG", DJANGO_DEBUG="yes") is True


def test_cookies_are_secure_and_tls_is_left_to_the_proxy() -> None:
    names = "[s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SECURE_SSL_REDIRECT]"
    assert _settings(names) == [True, True, False]
    assert _settings(names, DJANGO_DEBUG="1", DJANGO_SSL_REDIRECT="1") == [False, False, True]


def test_sqlite_is_the_default_and_ready_for_several_writers() -> None:
    database = _settings("s.DATABASES['default']")
    assert isinstance(database, dict)
    assert database["NAME"] == str(ROOT / "db.sqlite3")
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "journal_mode=WAL" in database["OPTIONS"]["init_command"]


def test_postgresql_is_pooled() -> None:
    database = _settings("s.DATABASES['default']", DATABASE_URL=PRODUCTION["DATABASE_URL"])
    assert isinstance(database, dict)
    assert database["CONN_MAX_AGE"] == 0
    assert database["OPTIONS"]["pool"]["max_size"] > 1
    assert database["CONN_HEALTH_CHECKS"] is True
    # Its own pauses between two tries double: the longer an outage, the longer what comes after.
    assert database["OPTIONS"]["pool"]["reconnect_timeout"] <= 2


def test_options_in_the_address_of_the_database_win() -> None:
    address = PRODUCTION["DATABASE_URL"] + "?connect_timeout=2&sslmode=require"
    database = _settings("s.DATABASES['default']", DATABASE_URL=address)
    assert isinstance(database, dict)
    options = database["OPTIONS"]
    assert (str(options["connect_timeout"]), options["sslmode"]) == ("2", "require")
    assert "pool" in options


@pytest.mark.parametrize(("url", "expected"), [("", "InMemory"), ("redis://r:6379", "RedisLayer")])
def test_redis_carries_messages_and_cache_when_it_is_there(url: str, expected: str) -> None:
    layer, cache = _settings(  # type: ignore[misc]
        "[s.CHANNEL_LAYERS['default']['BACKEND'], s.CACHES['default']['BACKEND']]", REDIS_URL=url
    )
    assert expected in layer
    assert ("redis" in cache) is bool(url)


@pytest.mark.parametrize("command", [("manage.py", "check"), ("-c", "import project.asgi")])
def test_the_settings_module_may_be_preset(command: tuple[str, ...]) -> None:
    done = _run(*command, DJANGO_SETTINGS_MODULE="no_such_settings")
    assert done.returncode == 1
    assert "no_such_settings" in done.stderr


def test_what_agents_may_reach_comes_from_the_environment() -> None:
    found = _settings(
        "s.RUNS['HTTP']",
        DJANGO_DEBUG="1",
        AGENTS_HTTP_ALLOW=" intranet.example, 10.0.0.0/8 ,",
        AGENTS_HTTP_PROXY_URL="http://user:pw@proxy:3128/",
    )
    assert found == {
        "ALLOW": ["intranet.example", "10.0.0.0/8"],
        "PROXY_URL": "http://user:pw@proxy:3128",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AGENTS_HTTP_ALLOW", "http://intranet"),
        ("AGENTS_HTTP_ALLOW", "10.0.0.0/99"),
        ("AGENTS_HTTP_PROXY_URL", "proxy:3128"),
        ("AGENTS_HTTP_PROXY_URL", "socks5://proxy:1080"),
    ],
)
def test_what_agents_may_reach_is_checked_at_the_start(name: str, value: str) -> None:
    done = _run("manage.py", "check", DJANGO_DEBUG="1", **{name: value})
    assert done.returncode == 1
    assert name in done.stderr.splitlines()[-1]


def test_a_deployment_whose_agents_reach_everything_is_warned() -> None:
    done = _run("manage.py", "check", "--deploy", AGENTS_HTTP_ALLOW="*", **PRODUCTION)
    assert "runs.W020" in done.stderr
