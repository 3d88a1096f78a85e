"""The admin's list of what owners have used of their quotas."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runs.models import OwnerUsage
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db

ADDRESS = "/admin/runs/ownerusage/"


def test_it_shows_what_each_owner_has_used_and_may_use(
    operator_client: Client, alice: User, settings: Any
) -> None:
    settings.RUNS = {**settings.RUNS, "MAX_DATA_STORE_KEYS_PER_OWNER": 0}
    OwnerUsage.objects.create(owner=alice, stored_bytes=3 * 1024**3, keys_count=1_234)
    for _ in range(3):
        make_run(alice)
    for path in (ADDRESS, f"{ADDRESS}{alice.pk}/change/", f"{ADDRESS}?q=ali"):
        text = operator_client.get(path).content.decode().replace("\xa0", " ")
        for words in ("alice", "3 of 10,000", "3.0 GB of 20.0 GB", "1,234 of no limit"):
            assert words in text, path
    assert "3 of 10,000" not in operator_client.get(f"{ADDRESS}?q=bob").content.decode()


def test_it_costs_as_much_for_many_owners(operator_client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert operator_client.get(ADDRESS).status_code == 200
        return len(captured)

    OwnerUsage.objects.create(owner=User.objects.create(username="first"))
    few = queries()
    for number in range(20):
        OwnerUsage.objects.create(owner=User.objects.create(username=f"user {number}"))
    assert queries() == few


def test_nothing_can_be_changed_or_deleted(admin_client: Client, alice: User) -> None:
    OwnerUsage.objects.create(owner=alice)
    assert admin_client.get(f"{ADDRESS}add/").status_code == 403
    assert admin_client.post(f"{ADDRESS}{alice.pk}/delete/", {"post": "yes"}).status_code == 403
    assert OwnerUsage.objects.count() == 1
