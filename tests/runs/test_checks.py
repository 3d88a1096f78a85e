"""System checks of the options."""

from __future__ import annotations

from typing import Any

import pytest

from runs.checks import check_deployment, check_options


def _ids(options: dict[str, Any], settings: Any) -> list[str | None]:
    settings.RUNS = options
    messages = check_options(None)
    assert all(message.hint for message in messages)
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
        ({"LEASE_SECONDS": 2}, "runs.W001"),
        (
            {"LLM": {"BASE_URL": "http://api.example.org/v1", "API_KEY": "k", "MODEL": "m"}},
            "runs.W002",
        ),
        ({"LLM": {"BASE_URL": "http://8.8.8.8/v1", "API_KEY": "k", "MODEL": "m"}}, "runs.W002"),
        ({"LLM": {"API_KEY": "k"}}, "runs.W004"),
        ({"HTTP": {"ALLOW": ["http://intranet"]}}, "runs.E002"),
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
