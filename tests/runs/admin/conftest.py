"""Users of the admin: an operator, a viewer without other permissions, and an owner of runs."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from runs.ops.accounts import GROUP_NAME, create_missing_group


def staff(name: str, *codenames: str) -> User:
    """Make a staff member with these permissions of ours, and no others."""
    user = User.objects.create_user(name, is_staff=True)
    found = Permission.objects.filter(content_type__app_label="runs", codename__in=codenames)
    assert len(found) == len(codenames)
    user.user_permissions.set(found)
    return user


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def alice(db: None) -> User:
    """An owner of runs, who is not staff."""
    return User.objects.create_user("alice")


@pytest.fixture
def operator(db: None) -> User:
    """A staff member in the group of operators, no superuser."""
    user = User.objects.create_user("operator", is_staff=True)
    if not Group.objects.filter(name=GROUP_NAME).exists():  # a flush takes it away
        from django.apps import apps

        create_missing_group(apps.get_app_config("runs"), using="default", apps=apps)
    user.groups.add(Group.objects.get(name=GROUP_NAME))
    return user


@pytest.fixture
def viewer(db: None) -> User:
    return staff("viewer", "view_runrecord")


@pytest.fixture
def operator_client(operator: User) -> Client:
    """The operator's browser."""
    return signed_in(operator)
