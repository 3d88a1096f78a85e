"""The site's users, whatever their model is; tests/installed has whole sites with other ones."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User

from runs.db import users
from runs.db.alias import connection
from runs.models import SEE_ALL, RunRecord

pytestmark = pytest.mark.django_db


def _as_read_back(key: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [users.key_as_parameter(key)])
        return users.key_as_read(cursor.fetchone()[0])


def test_a_number_is_passed_and_read_as_it_is(alice: User) -> None:
    assert _as_read_back(alice.pk) == alice.pk


def test_a_uuid_is_passed_and_read_as_the_field_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_key", lambda: RunRecord._meta.pk)  # any UUID field of a model
    key = uuid.uuid4()
    assert _as_read_back(key) == key
    if connection.vendor == "sqlite":
        assert users.key_as_parameter(key) == key.hex


def test_permissions_are_the_models_own(alice: User) -> None:
    assert not users.may(alice, SEE_ALL)
    alice.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
    assert users.may(User.objects.get(pk=alice.pk), SEE_ALL)
    assert not users.may(object(), SEE_ALL), "a model without permissions gives none"


def test_a_name_that_is_too_long_for_its_column_is_cut() -> None:
    assert users.username_of(User(username="a" * 300)) == "a" * users.MAX_USERNAME_LENGTH
    assert users.username_of(None) == ""


def test_columns_are_told_from_attributes() -> None:
    assert users.has_column("is_active")
    assert not users.has_column("is_authenticated")
