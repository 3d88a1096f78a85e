"""Environment variables: accepted values, and messages about others."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.environment import Environment

GOOD_KEY = secrets.token_urlsafe(50)
BAD_DATABASES = [
    *("postgresql+psycopg://u:p@h/n", "postgres:/x", "postgres:h/n", "postgres//h/n", "h/n"),
    *("postgres://u:p@h:99999/n", "postgres://u:p@h:abc/n", "postgres://u:p w@h/n"),
    *("postgres://u:p%00@h/n", "postgres://u:p@h/n%0a", "postgres://u:p@h/n?sslmod=require"),
    *("postgres://u:p@h/n?sslmode=yes", "postgres://u:p@h/n?pool=1", "postgres://u:p@h/"),
    *("sqlite:db.sqlite3", "sqlite://file", "sqlite:////no/such/folder/db.sqlite3", "sqlite3:///x"),
]
BAD_REDIS = [
    *("redis:/x", "redis:h", "redis://", "redis://:6379/0", "redis//h", "h:6379", "rediss:/h"),
    *("redis://h:6379/abc", "redis://h/-1", "redis://h/0/1", "redis://h:99999", "redis://h:x"),
    *("redis://:pa#ss@h", "redis://:pa/ss@h", "redis://my host", "unix:", "unix:///", "tcp://h"),
    *("redis://h?colour=red", "redis://h/0?db=x", "redis://:p%0a@h"),
]
BAD_HOSTS = [
    *("https://example.org", "example.org:443", "example.org/", "a.org b.org", "*.example.org"),
    *("example.org.", "::1", "[::1", "[example]", "[::1]:80", "my_host", "müller.example", "a..b"),
    *("-a.org", "a.org;b.org", "good.org,http://bad.org", "..a", "."),
]
BAD_PROXIES = [
    "10.1.2.3/24",
    "10.1.2.300",
    "10.1.2.3:80",
    "nginx",
    "*,10.1.2.3",
    "10.0.0.0/33",
    "[::1]",
]
BAD_LISTENING = [
    "nowhere",
    "127.0.0.1",
    "1.2.3.4:99999",
    "::1:80",
    "http://h:80",
    ":80",
    "-1",
    "h:80/x",
]


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
        *(("database", value, {}, "Accepted") for value in BAD_DATABASES),
        *(("redis_url", value, {}, "Accepted") for value in BAD_REDIS),
        *(("host_patterns", value, {}, "separated by commas") for value in BAD_HOSTS),
        *(("proxies", value, {"default": []}, "networks") for value in BAD_PROXIES),
        *(("listening", value, {"default": ""}, "a port") for value in BAD_LISTENING),
        ("whole_number", "11", {"default": 1, "at_least": 1, "at_most": 10}, "at most 10"),
        ("whole_number", "9" * 30, {"default": 1, "at_least": 1, "at_most": 10}, "at most 10"),
        ("seconds", "1e9", {"default": 1, "at_least": 1, "at_most": 3600}, "at most 3,600"),
        ("rate", "-1/min", {"default": "1/s"}, "600/min"),
        ("rate", "1000000000000/min", {"default": "1/s"}, "600/min"),
        ("rate", "10 per minute", {"default": "1/s"}, "600/min"),
        ("header_token", "schlüssel", {}, "ASCII"),
        ("secret_key", "a", {"is_any_accepted": False}, "fewer than 32 characters"),
        ("secret_key", "ab" * 40, {"is_any_accepted": False}, "different characters"),
        ("secret_key", "Change-Me! " * 5, {"is_any_accepted": False}, "random text"),
        ("secret_key", "django-insecure-" + "k3y" * 20, {"is_any_accepted": False}, "random text"),
        ("secret_keys", f"{GOOD_KEY},a", {"is_any_accepted": False}, "fewer than 32 characters"),
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
        ("redis_url", "redis://:hunter2@h:6379/x"),
        ("redis_url", "redis://:hunter2@h?colour=red"),
        ("database", "postgres://u:hunter2@h/n?sslmod=require"),
        ("text", "hunter2\nhunter2"),
        ("text", '"hunter2"'),
        ("header_token", "hunter2 hünter2"),
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


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\rb", "a\x00b", "a\x1b[0m", "a\x85b", "a\u2028b", "a\udcffb", '"a"', "'a'", "`a`"],
    ids=ascii,
)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("text", {}),
        ("switch", {"default": True}),
        ("whole_number", {"default": 1, "at_least": 1}),
        ("choice", {"choices": ("line", "json")}),
        ("words", {}),
        ("http_url", {}),
        ("redis_url", {}),
        ("database", {}),
        ("host_patterns", {}),
        ("secret_key", {"is_any_accepted": True}),
        ("header_token", {}),
    ],
)
def test_no_variable_may_have_a_second_line_or_quotes(
    method: str, arguments: dict[str, Any], value: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^NAME "):
        getattr(Environment({"NAME": value}), method)("NAME", **arguments)


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    env = Environment({"X": " redis://h \n", "Y": "\t600/min\r\n"})
    assert (env.redis_url("X"), env.rate("Y", "0")) == ("redis://h", "600/min")


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("redis_url", "redis://:pa%23ss@h:6379/15"),
        ("redis_url", "rediss://user:p@[::1]:6380/0?ssl_cert_reqs=none"),
        ("redis_url", "redis://h/"),
        ("redis_url", "unix:///run/redis.sock?db=1"),
        ("database", "postgres://u:p%20w@h/n?sslmode=verify-full&connect_timeout=2"),
        ("database", "postgresql://%2Fvar%2Frun%2Fpostgresql/n"),
        ("database", "postgres://u@[::1]:5432/n?assume_role=halting"),
        ("database", "sqlite:///db.sqlite3"),
    ],
)
def test_an_address_that_works_is_accepted(method: str, value: str) -> None:
    assert getattr(Environment({"X": value}), method)("X")


def test_hosts_and_proxies_that_work_are_accepted() -> None:
    hosts = "example.org, .example.org,10.1.2.3,[::1],*,xn--mller-kva.example,localhost,A-1"
    assert len(Environment({"X": hosts}).host_patterns("X")) == 8
    assert Environment({"X": "*"}).proxies("X", []) == ["*"]
    given = "10.1.2.3, 10.1.2.0/24,fd00::/8,::1"
    assert len(Environment({"X": given}).proxies("X", [])) == 4
    assert Environment({}).proxies("X", ["127.0.0.1"]) == ["127.0.0.1"]


@pytest.mark.parametrize("value", ["9000", "0", "0.0.0.0:9000", "[::]:9000", "worker1:9000"])
def test_where_to_listen_is_accepted(value: str) -> None:
    assert Environment({"X": value}).listening("X", "") == value


def test_a_weak_key_is_accepted_where_any_is() -> None:
    env = Environment({"X": "a", "Y": f"{GOOD_KEY}, {GOOD_KEY[::-1]}"})
    assert env.secret_key("X", is_any_accepted=True) == "a"
    assert env.secret_key("Z", is_any_accepted=False) == ""
    assert env.secret_keys("Y", is_any_accepted=False) == [GOOD_KEY, GOOD_KEY[::-1]]
