"""The two users that a newcomer finds, whose passwords everybody knows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password

__all__ = ["DEMO_USERS", "DemoUser", "create_missing_demo_users", "find_open_demo_users"]


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A user whose password is the name."""

    name: str
    is_superuser: bool

    def __str__(self) -> str:
        return f"{self.name}/{self.name} ({'superuser' if self.is_superuser else 'ordinary'})"


DEMO_USERS = (DemoUser("demo", is_superuser=False), DemoUser("admin", is_superuser=True))


def create_missing_demo_users() -> list[DemoUser]:
    """Create those that don't exist, and return them. An existing user is left as it is."""
    users = get_user_model().objects
    created = []
    for demo in DEMO_USERS:
        if users.filter(username=demo.name).exists():
            continue
        create = users.create_superuser if demo.is_superuser else users.create_user
        create(demo.name, password=demo.name)
        created.append(demo)
    return created


def find_open_demo_users() -> list[DemoUser]:
    """Return those who could log in with the password that everybody knows.

    Slow on purpose (passwords are hashed): a good part of a second, the first time.
    """
    active = get_user_model().objects.filter(is_active=True)
    passwords = dict(
        active.filter(username__in=[demo.name for demo in DEMO_USERS]).values_list(
            "username", "password"
        )
    )
    return [
        demo
        for demo in DEMO_USERS
        if demo.name in passwords and _is_open(demo.name, passwords[demo.name])
    ]


@cache  # a hash never comes to mean another password, and the sign-in page asks each time
def _is_open(name: str, stored: str) -> bool:
    # Not user.check_password(): that one may write a better hash back.
    return check_password(name, stored)
