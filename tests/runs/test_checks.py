"""System checks of the options."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections

from runs.checks import (
    check_database_role,
    check_databases,
    check_deployment,
    check_options,
    check_redis,
)


def _ids(options: dict[str, Any], settings: Any) -> list[str | None]:
    settings.RUNS = options
    messages = check_options(None)
    assert all(message.hint for message in messages)
    assert "s3cret" not in str(messages)
    return [message.id for message in messages]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"MAX_PER_OWNER": 3, "QUEUE_SECONDS": 0.5},
        {"LEASE_SECONDS": 3, "DRAIN_SECONDS": 0, "API_THROTTLE_RATE": None},
        {"LLM": {"BASE_URL": "https://api.example.org/v1", "API_KEY": "k", "MODEL": "m"}},
        {"LLM": {"BASE_URL": "http://127.0.0.1:11434/v1", "API_KEY": "k", "MODEL": "m"}},
        {"LLM": {"BASE_URL": "http://ollama:11434/v1", "API_KEY": "k", "MODEL": "m"}},
        {"LLM": {"BASE_URL": "http://10.1.2.3/v1", "API_KEY": "k", "MODEL": "m"}},
        {"LLM": {"BASE_URL": "http://api.example.org/v1", "MODEL": "m"}},
    ],
)
def test_sane_options_pass(options: dict[str, Any], settings: Any) -> None:
    assert _ids(options, settings) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"LEASE": 3}, "runs.E001"),
        ({"LLM": {"KEY": "k"}}, "runs.E001"),
        ({"EMBEDDED_WORKER": "yes"}, "runs.E002"),
        ({"MAX_CONCURRENT": 0}, "runs.E002"),
        ({"MAX_CONCURRENT": True}, "runs.E002"),
        ({"MAX_PER_OWNER": -1}, "runs.E002"),
        ({"MAX_PER_OWNER": None}, "runs.E002"),
        ({"QUEUE_SECONDS": -1}, "runs.E002"),
        ({"QUEUE_SECONDS": 1e9}, "runs.E002"),
        ({"MAX_INPUT_BYTES": 1.5}, "runs.E002"),
        ({"LEASE_SECONDS": 0.5}, "runs.E002"),
        ({"LEASE_SECONDS": float("nan")}, "runs.E002"),
        ({"DRAIN_SECONDS": -1}, "runs.E002"),
        ({"API_THROTTLE_RATE": 600}, "runs.E002"),
        ({"METRICS_TOKEN": b"s3cret"}, "runs.E002"),
        ({"LLM": {"API_KEY": "s3cret\nword", "MODEL": "m"}}, "runs.E020"),
        ({"LLM": {"API_KEY": None, "MODEL": "m"}}, "runs.E020"),
        ({"LLM": {"BASE_URL": "s3cret.example", "MODEL": "m"}}, "runs.E020"),
        ({"LLM": {"BASE_URL": "http://127.0.0.1/v1", "MODEL": "s3cret\tm"}}, "runs.E020"),
        ({"LLM": {"BASE_URL": "http://u:s3cret@h/v1", "API_KEY": "k", "MODEL": "m"}}, "runs.E020"),
        ({"LLM": {"PROXY_URL": "socks5://u:s3cret@proxy"}}, "runs.E020"),
        ({"LEASE_SECONDS": 2}, "runs.W001"),
        (
            {"LLM": {"BASE_URL": "http://api.example.org/v1", "API_KEY": "k", "MODEL": "m"}},
            "runs.W002",
        ),
        ({"LLM": {"BASE_URL": "http://8.8.8.8/v1", "API_KEY": "k", "MODEL": "m"}}, "runs.W002"),
        ({"LLM": {"API_KEY": "k"}}, "runs.W004"),
        ({"HTTP": {"ALLOW": ["http://intranet"]}}, "runs.E002"),
        ({"TRACEPARENT_HOSTS": ["http://intranet"]}, "runs.E002"),
        ({"TRACEPARENT_HOSTS": "intranet"}, "runs.E002"),
        ({"HTTP": {"PROXY_URL": "socks5://u:s3cret@proxy"}}, "runs.E002"),
        ({"HTTP": {"PROXY_URL": None}}, "runs.E002"),
    ],
)
def test_a_wrong_option_is_reported(options: dict[str, Any], expected: str, settings: Any) -> None:
    assert _ids(options, settings) == [expected]


def test_a_sane_deployment_passes(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    assert check_deployment(None) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DEBUG", True, "runs.E003"),
        ("SECRET_KEY", "django-insecure-known", "runs.E004"),
        ("ALLOWED_HOSTS", ["*"], "runs.W003"),
    ],
)
def test_a_dangerous_deployment_is_reported(
    name: str, value: object, expected: str, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    setattr(settings, name, value)
    (message,) = check_deployment(None)
    assert message.id == expected
    assert name in message.msg
    assert message.hint


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", []),
        ("redis://:password@redis:6379/0", []),
        ("redis://user:password@127.0.0.1", []),
        ("redis://redis?password=password", []),
        ("rediss://:password@redis.example.org", []),
        ("unix:///run/redis.sock", []),
        ("redis://127.0.0.1:6379/0", ["runs.W005"]),
        ("rediss://redis.example.org", ["runs.W005"]),
        ("redis://user:@redis", ["runs.W005"]),
        ("redis://:password@redis.example.org", ["runs.W006"]),
        ("redis://8.8.8.8", ["runs.W005", "runs.W006"]),
    ],
)
def test_a_redis_that_others_may_use_or_overhear_is_reported(
    address: str, expected: list[str], settings: Any
) -> None:
    settings.CACHES = {"default": {"BACKEND": settings.CACHES["default"]["BACKEND"]}}
    if address:
        settings.CACHES["default"]["LOCATION"] = address
    messages = check_redis(None)
    assert [message.id for message in messages] == expected
    assert all(message.hint and "password@" not in message.msg for message in messages)


def test_workers_apart_without_a_way_to_them_are_reported(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert _ids({"EMBEDDED_WORKER": False}, settings) == ["runs.W008"]
    settings.CACHES["default"]["LOCATION"] = "redis://redis"
    assert _ids({"EMBEDDED_WORKER": False}, settings) == []


@pytest.mark.postgres
@pytest.mark.django_db
def test_a_superuser_as_role_of_the_database_is_reported() -> None:
    """The role of the tests is one, or it could make no database."""
    connection = connections["default"]
    assert check_database_role(None) == [], "it asks the database only if it is told to"
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        (is_superuser,) = cursor.fetchone()
        found = [message.id for message in check_database_role(None, ["default"])]
        assert found == (["runs.W007"] if is_superuser else [])
        cursor.execute("CREATE ROLE halting_test_plain")
        cursor.execute("SET LOCAL ROLE halting_test_plain")
        assert check_database_role(None, ["default"]) == []


class _Router:
    """Sends some models elsewhere, for writes or for reads."""

    def __init__(self, way: str, *labels: str) -> None:
        self._way, self._labels = way, labels

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        return self._answer("write", model)

    def db_for_read(self, model: Any, **_: Any) -> str | None:
        return self._answer("read", model)

    def _answer(self, way: str, model: Any) -> str | None:
        return "elsewhere" if way == self._way and model._meta.app_label in self._labels else None


@pytest.mark.parametrize(
    ("router", "divided"),
    [
        (_Router("write", "auth"), {"auth.User"}),
        (_Router("write", "identity"), {"identity.ApiToken", "identity.AuditEntry"}),
        (_Router("read", "identity"), {"identity.ApiToken", "identity.AuditEntry"}),
        (_Router("read", "auth", "sessions"), set()),  # the users may be read from a replica
        (_Router("write", "sessions"), set()),
    ],
)
def test_a_router_must_not_divide_what_belongs_together(
    router: _Router, divided: set[str], settings: Any
) -> None:
    settings.DATABASE_ROUTERS = [router]
    found = check_databases(None)
    assert {message.id for message in found} <= {"runs.E006"}
    assert {message.msg.split()[3] for message in found} == divided


def test_naive_instants_are_an_error(settings: Any) -> None:
    assert check_databases(None) == []
    settings.USE_TZ = False
    assert [message.id for message in check_databases(None)] == ["runs.E005"]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ({"max_size": 20}, []),
        ({"min_size": 10}, []),
        ({"timeout": 5}, ["runs.W010"]),
        ({}, []),  # Django takes it for none
        ({"min_size": 2, "max_size": 8}, ["runs.W010"]),
        (None, []),
    ],
)
def test_a_pool_that_a_worker_uses_up_is_named(
    pool: object, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "pool", pool)
    assert [message.id for message in check_databases(None)] == expected
