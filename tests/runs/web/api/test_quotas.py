"""Quotas at the API: the refusal, and what is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from runs.models import OwnerUsage
from runs.quotas import ledger

pytestmark = pytest.mark.django_db

Options = Callable[..., None]


def test_a_start_beyond_the_queue_is_429_with_what_is_used_and_allowed(
    api: APIClient, options: Options
) -> None:
    options(MAX_QUEUED_PER_OWNER=1)
    assert api.post("/runs", {"agent": "echo"}).status_code == 201
    response = api.post("/runs", {"agent": "echo"})
    assert response.status_code == 429
    assert response["Retry-After"] == "10"
    detail = "1 of at most 1 runs are queued already."
    assert response.json() == {"code": "quota_queued", "detail": detail, "used": 1, "allowed": 1}


def test_a_start_beyond_the_bytes_is_429_that_no_waiting_helps(
    api: APIClient, options: Options
) -> None:
    options(MAX_STORED_BYTES_PER_OWNER=5_000)
    response = api.post("/runs", {"agent": "echo", "input": {"text": "x" * 5_000}})
    assert response.status_code == 429
    assert "Retry-After" not in response
    assert response.json()["code"] == "quota_stored"
    assert (response.json()["used"], response.json()["allowed"]) == (0, 5_000)


def test_a_stop_and_a_repeated_start_are_never_refused(api: APIClient, options: Options) -> None:
    key = {"HTTP_IDEMPOTENCY_KEY": "k"}
    run = api.post("/runs", {"agent": "echo"}, **key).json()
    options(MAX_QUEUED_PER_OWNER=1, MAX_STORED_BYTES_PER_OWNER=1)
    assert api.post("/runs", {"agent": "echo"}).status_code == 429
    again = api.post("/runs", {"agent": "echo"}, **key)
    assert (again.status_code, again.json()["id"]) == (200, run["id"])
    assert api.post(f"/runs/{run['id']}/stop").status_code == 202


def test_quotas_say_what_you_have_used(
    api: APIClient, alice: User, bob: User, runs: Any, options: Options
) -> None:
    options(MAX_DATA_STORE_KEYS_PER_OWNER=0)
    OwnerUsage.objects.create(owner=bob, stored_bytes=2**40)
    OwnerUsage.objects.create(owner=alice, stored_bytes=4_000, keys_count=5)
    ledger.forget()
    runs.queued()
    assert api.get("/quotas").json() == {
        "queued_runs": {"used": 1, "allowed": 10_000, "code": "quota_queued"},
        "stored_bytes": {
            "used": 4_000 + 1_024 + len("{}"), "allowed": 20 * 1024**3, "code": "quota_stored",
        },
        "data_store_keys": {"used": 5, "allowed": None, "code": "quota_keys"},
    }  # fmt: skip
    assert api.get("/quotas/?x=1").json()["code"] == "invalid_filter"
    assert APIClient().get("/quotas").status_code == 401
