"""The settings as a process finds them: each test starts one with an environment of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_manage

ROOT = Path(__file__).resolve().parent.parent.parent

_OURS = (
    *("AGENTS_", "DJANGO_", "DATABASE_", "REDIS_URL", "LLM_", "RUNS_", "API_THROTTLE_RATE"),
    *("METRICS_TOKEN", "LOG_FORMAT", "FORWARDED_ALLOW_IPS"),
)

PRODUCTION = {
    "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
    "DJANGO_ALLOWED_HOSTS": "example.org",
    "DATABASE_URL": "postgres://user:password@database/halting",
    "REDIS_URL": "redis://:password@redis:6379/0",
}


def _manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_manage(*arguments, environment=_clean(environment))


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=_clean(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _clean(environment: dict[str, str]) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return others | environment


def _settings(expression: str, **environment: str) -> object:
    code = f"import json, project.settings as s; print(json.dumps({expression}, default=str))"
    done = _python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sane_production_has_no_issue() -> None:
    done = _manage("check", "--deploy", **PRODUCTION)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout + done.stderr


def test_a_bare_production_is_told_what_is_missing() -> None:
    done = _manage("check", "--deploy")
    assert done.returncode == 1
    assert "DJANGO_SECRET_KEY" in done.stderr
    assert "ALLOWED_HOSTS" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_in_production_is_an_error() -> None:
    done = _manage("check", "--deploy", DJANGO_DEBUG="1", **PRODUCTION)
    assert done.returncode == 1
    assert "runs.E003" in done.stderr


def test_a_bad_variable_is_one_line_and_no_traceback() -> None:
    done = _manage("check", RUNS_MAX_CONCURRENT="lots")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "ImproperlyConfigured: RUNS_MAX_CONCURRENT='lots' is not understood. "
        "Accepted: a whole number of at least 1."
    ]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("LLM_API_KEY", "s3cret\nword", "is not understood. Accepted: one line of text"),
        ("LLM_BASE_URL", "https://s3cret\n.example/v1", "is not understood. Accepted: one line"),
        ("LLM_MODEL", "s3cret\rmodel", "is not understood. Accepted: one line of text"),
        ("LLM_PROXY_URL", "socks5://user:s3cret@proxy:1080", "is a SOCKS proxy"),
    ],
)
def test_a_value_that_can_not_work_stops_the_start_and_is_named(
    name: str, value: str, problem: str
) -> None:
    done = _python("-c", "import project.asgi", DJANGO_DEBUG="1", **{name: value})
    assert done.returncode == 1
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith(f"django.core.exceptions.ImproperlyConfigured: {name} {problem}")
    assert "s3cret" not in done.stderr + done.stdout


def test_the_models_secrets_are_known_from_the_start() -> None:
    code = (
        "import django; django.setup(); from agents.values.redaction import redact;"
        "print(redact('It is ours3cret and theirs3cret and base/s3cret.'))"
    )
    done = _python(
        "-c",
        code,
        DJANGO_DEBUG="1",
        DJANGO_SETTINGS_MODULE="project.settings",
        LLM_API_KEY="ours3cret",
        LLM_PROXY_URL="http://user:theirs3cret@proxy:8080",
        LLM_BASE_URL="http://user:base%2Fs3cret@model.internal/v1",
    )
    assert done.stdout.strip() == "It is [redacted] and [redacted] and [redacted].", done.stderr


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    given = {"LLM_API_KEY": " key\n", "LLM_BASE_URL": "https://x.example/v1/\n", "LLM_MODEL": " m "}
    given["LLM_PROXY_URL"] = " http://user:password@proxy:8080 "
    assert _settings("s.RUNS['LLM']", **given) == {
        "API_KEY": "key",
        "BASE_URL": "https://x.example/v1",
        "MODEL": "m",
        "PROXY_URL": "http://user:password@proxy:8080",
    }


SECRET = "hunter2hunter2"
#: Variable and value: each stops the start, by the variable's name. LLM_* are with their own tests.
WRONG = [
    *(("DJANGO_SECRET_KEY", value) for value in ("a", "a" * 50, "changeme" * 8, f'"{SECRET}"')),
    *(
        ("DJANGO_SECRET_KEY", value)
        for value in (f"{SECRET}\n{SECRET * 5}", "django-insecure-" * 4)
    ),
    *(("DJANGO_SECRET_KEY_FALLBACKS", value) for value in ("old", f"{SECRET * 4},b", "'a'")),
    *(("DJANGO_DEBUG", value) for value in ("maybe", "2", "-1", "1 1", "True,")),
    *(("DJANGO_SSL_REDIRECT", value) for value in ("yes please", "https")),
    *(
        ("DJANGO_ALLOWED_HOSTS", value)
        for value in ("https://a.org", "a.org:443", "a b", "*.a.org")
    ),
    *(("FORWARDED_ALLOW_IPS", value) for value in ("10.1.2.3/8", "nginx", "*,::1", "10.0.0.1:80")),
    *(("DATABASE_URL", value) for value in ("postgresql+psycopg://u:p@h/n", "postgres:/n", "h")),
    *(
        ("DATABASE_URL", value)
        for value in (f"mysql://u:{SECRET}@h/n", f"postgres://u:{SECRET}@h:x/n")
    ),
    *(
        ("DATABASE_URL", value)
        for value in (f"postgres://u:{SECRET}@h/n?sslmod=1", "sqlite:////no/x/y")
    ),
    *(("DATABASE_POOL_SIZE", value) for value in ("0", "-1", "9", "1e3", "99999999", "many")),
    *(("REDIS_URL", value) for value in ("redis:/x", "redis://", "http://h", "redis://h/one")),
    *(
        ("REDIS_URL", value)
        for value in (f"redis://:{SECRET}@h:6379:1", f"redis://:{SECRET}@h?x=1")
    ),
    *(("RUNS_EMBEDDED_WORKER", value) for value in ("none", "10")),
    *(("RUNS_MAX_CONCURRENT", value) for value in ("0", "-1", "1.5", "1" + "0" * 20, "1k")),
    *(("RUNS_MAX_PER_OWNER", value) for value in ("-1", "none", "1" + "0" * 20)),
    *(("RUNS_KEEP_DAYS", value) for value in ("-1", "1.5", "forever")),
    *(("RUNS_KEEP_LOGS_DAYS", value) for value in ("-1", "1.5", "forever")),
    *(("RUNS_QUEUE_SECONDS", value) for value in ("-1", "nan", "inf", "1m")),
    *(
        ("RUNS_WORKER_LISTEN", value)
        for value in ("here", "127.0.0.1", "1.2.3.4:99999", "http://h:1")
    ),
    *(("RUNS_LEASE_SECONDS", value) for value in ("0", "0.9", "-15", "nan", "1e9", "15s")),
    *(("RUNS_DRAIN_SECONDS", value) for value in ("-1", "inf", "1e12", "20s")),
    *(("RUNS_MAX_INPUT_BYTES", value) for value in ("0", "-1", "8MB", "1" + "0" * 20)),
    *(
        ("API_THROTTLE_RATE", value)
        for value in ("-1/min", "many", "600", "600/year", "9" * 30 + "/s")
    ),
    *(("METRICS_TOKEN", value) for value in (f"{SECRET}\n", f"{SECRET}é", f'"{SECRET}"')),
    *(("LOG_FORMAT", value) for value in ("xml", "line,json", '"json"')),
]
_TRY = """
import json, os, runpy, sys
from django.core.exceptions import ImproperlyConfigured
for name, value in json.loads(sys.argv[1]):
    os.environ[name] = value
    try:
        runpy.run_module("project.settings")
        said = ""
    except ImproperlyConfigured as error:
        said = str(error)
    del os.environ[name]
    print(json.dumps([name, value, said]))
"""


def test_each_wrong_value_stops_the_start_by_the_name_of_its_variable() -> None:
    """In one process: a start for each value would take a minute."""
    done = _python("-c", _TRY, json.dumps(WRONG))
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(WRONG)
    # A line break at the end of a value is no part of it.
    accepted = [(name, value) for name, value, text in said if not text]
    assert accepted == [("METRICS_TOKEN", f"{SECRET}\n")]
    for name, value, text in said:
        assert not text or text.startswith(name), (name, value, text)
        assert "\n" not in text
        assert SECRET not in text


def test_a_weak_key_stops_the_process_before_it_serves_anything() -> None:
    for command in ("runserver", "check"):
        done = _manage(command, **{**PRODUCTION, "DJANGO_SECRET_KEY": "a"})
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("ImproperlyConfigured: DJANGO_SECRET_KEY is not understood.")
    assert _settings("s.SECRET_KEY", DJANGO_DEBUG="1", DJANGO_SECRET_KEY="a") == "a"


def test_the_secrets_of_the_settings_are_redacted() -> None:
    old, new = secrets.token_urlsafe(50), secrets.token_urlsafe(50)
    code = """
import django, json, os
django.setup()
from django.conf import settings
from agents.values.redaction import redact
keys = settings.CHANNEL_LAYERS["default"]["CONFIG"]["symmetric_encryption_keys"]
print(redact(json.dumps([*keys, *json.loads(os.environ["SECRETS"])])))
"""
    done = _python(
        "-c",
        code,
        SECRETS=json.dumps(
            [old, new, "red#is-pass", "red%23is-pass", "post/gres", "scraper words"]
        ),
        DJANGO_SETTINGS_MODULE="project.settings",
        DJANGO_SECRET_KEY=new,
        DJANGO_SECRET_KEY_FALLBACKS=old,
        DATABASE_URL="postgres://user:post%2Fgres@database/halting",
        REDIS_URL="redis://:red%23is-pass@redis:6379/0",
        METRICS_TOKEN="scraper words",
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"[redacted]"}


def test_a_variable_that_is_no_setting_is_named() -> None:
    done = _manage("check", DJANGO_DEBUG="1", RUNS_MAX_CONCURENT="3", RUNS_LEASE="")
    assert "RUNS_MAX_CONCURENT" in done.stderr
    assert "RUNS_LEASE" not in done.stderr


def test_names_and_keys_in_redis_are_of_this_installation_and_outlive_a_change_of_key() -> None:
    names = "[s.CHANNEL_LAYERS['default']['CONFIG'], s.CACHES['default']['KEY_PREFIX']]"
    old, new = secrets.token_urlsafe(50), secrets.token_urlsafe(50)
    redis = {"REDIS_URL": PRODUCTION["REDIS_URL"]}

    def read(**environment: str) -> tuple[Any, list[str]]:
        config, prefix = _settings(names, **redis, **environment)  # type: ignore[misc]
        assert prefix == config["prefix"]
        assert not any(key in str(config) for key in (old, new))
        return prefix, config["symmetric_encryption_keys"]

    before, (old_key,) = read(DJANGO_SECRET_KEY=old)
    during, keys = read(DJANGO_SECRET_KEY=new, DJANGO_SECRET_KEY_FALLBACKS=old)
    after, (new_key,) = read(DJANGO_SECRET_KEY=new)
    # A process that has not been restarted yet uses the old key, under the old names.
    assert before == during != after
    assert keys == [old_key, new_key]


def test_debug_is_off_unless_set() -> None:
    assert _settings("s.DEBUG") is False
    assert _settings("s.DEBUG", DJANGO_DEBUG="yes") is True


def test_cookies_are_secure_and_tls_is_left_to_the_proxy() -> None:
    names = "[s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SECURE_SSL_REDIRECT]"
    assert _settings(names) == [True, True, False]
    assert _settings(names, DJANGO_DEBUG="1", DJANGO_SSL_REDIRECT="1") == [False, False, True]


def test_sqlite_is_the_default_and_ready_for_several_writers() -> None:
    code = (
        "import json, django; django.setup(); from django.db import connection;"
        "print(json.dumps(connection.settings_dict, default=str))"
    )
    done = _python("-c", code, DJANGO_SETTINGS_MODULE="project.settings")
    database = json.loads(done.stdout)
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
    done = _python(*command, DJANGO_SETTINGS_MODULE="no_such_settings")
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
        ("RUNS_TRACEPARENT_HOSTS", "10.0.0.0/99"),
        ("AGENTS_HTTP_PROXY_URL", "proxy:3128"),
        ("AGENTS_HTTP_PROXY_URL", "socks5://proxy:1080"),
    ],
)
def test_what_agents_may_reach_is_checked_at_the_start(name: str, value: str) -> None:
    done = _manage("check", DJANGO_DEBUG="1", **{name: value})
    assert done.returncode == 1
    assert name in done.stderr.splitlines()[-1]


def test_a_deployment_whose_agents_reach_everything_is_warned() -> None:
    done = _manage("check", "--deploy", AGENTS_HTTP_ALLOW="*", **PRODUCTION)
    assert "runs.W020" in done.stderr
