"""Environment variables: accepted values, and messages about others."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.environment import Environment


@pytest.mark.parametrize("word", ["1", "true", "YES", "On", " true "])
def test_a_switch_is_on(word: str) -> None:
    assert Environment({"X": word}).switch("X", default=False) is True


@pytest.mark.parametrize("word", ["0", "False", "no", "OFF"])
def test_a_switch_is_off(word: str) -> None:
    assert Environment({"X": word}).switch("X", default=True) is False


@pytest.mark.parametrize("variables", [{}, {"X": ""}, {"X": "  "}])
def test_an_empty_variable_counts_as_not_set(variables: dict[str, str]) -> None:
    env = Environment(variables)
    assert env.switch("X", default=True) is True
    assert env.text("X", "default") == "default"
    assert env.whole_number("X", 7, at_least=1) == 7
    assert env.seconds("X", 1.5, at_least=0) == 1.5
    assert env.words("X") == []
    assert env.rate("X", "600/min") == "600/min"
    assert env.http_url("X") == ""
    assert env.reachable("X") == []
    assert env.redis_url("X") == ""
    assert env.database("X") is None


@pytest.mark.parametrize(
    ("method", "value", "arguments", "accepted"),
    [
        ("switch", "maybe", {"default": False}, "1 or 0, true or false, yes or no, on or off"),
        ("whole_number", "many", {"default": 1, "at_least": 1}, "whole number of at least 1"),
        ("whole_number", "1.5", {"default": 1, "at_least": 1}, "whole number of at least 1"),
        ("whole_number", "0", {"default": 1, "at_least": 1}, "whole number of at least 1"),
        ("seconds", "nan", {"default": 1, "at_least": 0}, "number of seconds"),
        ("seconds", "inf", {"default": 1, "at_least": 0}, "number of seconds"),
        ("seconds", "-1", {"default": 1, "at_least": 0}, "number of seconds"),
        ("rate", "fast", {"default": "1/s"}, "600/min"),
        ("rate", "600/fortnight", {"default": "1/s"}, "600/min"),
        ("http_url", "llm.example.org/v1", {}, "http://"),
        ("http_url", "ftp://llm.example.org", {}, "http://"),
        ("redis_url", "http://redis", {}, "redis://"),
        ("reachable", "intranet, http://other", {}, "hosts, addresses or networks"),
        ("reachable", "10.0.0.0/8, 127.0.0.1:80", {}, "'127.0.0.1:80'"),
        ("reachable", "10.1.2.3/8", {}, "bits set after its prefix"),
        ("database", "mysql://user:password@host/name", {}, "postgres://"),
        ("database", "postgres://user:pass word@[host/name", {}, "percent-encoded"),
        ("database", "sqlite://:memory:", {}, ":memory:"),
        ("database", "postgres://host", {}, "must name a database"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_is_accepted(
    method: str, value: str, arguments: dict[str, Any], accepted: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        getattr(Environment({"NAME": value}), method)("NAME", **arguments)
    assert str(refused.value).startswith("NAME")
    assert accepted in str(refused.value)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("database", "mysql://user:hunter2@host/name"),
        ("database", "postgres://user:hunter2@[host/name"),
        ("redis_url", "http://:hunter2@redis"),
        ("http_url", "ftp://user:hunter2@llm"),
    ],
)
def test_a_complaint_never_repeats_a_password(method: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        getattr(Environment({"NAME": value}), method)("NAME")
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("off", ["0", "0/min"])
def test_a_rate_of_zero_is_off(off: str) -> None:
    assert Environment({"X": off}).rate("X", "600/min") is None


def test_values_are_read() -> None:
    env = Environment(
        {
            "HOSTS": "a.example.org, b.example.org,",
            "RATE": "10 / Hour",
            "URL": "https://llm.example.org/v1/",
            "SECONDS": "0.5",
            "DB": "postgres://me:p%40ss@db:5433/halting",
        }
    )
    assert env.words("HOSTS") == ["a.example.org", "b.example.org"]
    assert env.rate("RATE", "") == "10/hour"
    assert env.http_url("URL") == "https://llm.example.org/v1"
    assert env.seconds("SECONDS", 1, at_least=0) == 0.5
    database = env.database("DB")
    assert database is not None
    assert database["ENGINE"] == "django.db.backends.postgresql"
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("db", 5433, "halting")
    assert (database["USER"], database["PASSWORD"]) == ("me", "p@ss")


def test_a_choice_is_one_of_what_there_is_and_the_first_by_default() -> None:
    assert Environment({}).choice("X", ("line", "json")) == "line"
    assert Environment({"X": "JSON"}).choice("X", ("line", "json")) == "json"
    with pytest.raises(ImproperlyConfigured, match="line or json"):
        Environment({"X": "xml"}).choice("X", ("line", "json"))
