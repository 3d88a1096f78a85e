"""The accounts that the project creates: the group of the operators, and the demo users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import check_password
from django.contrib.auth.management import create_permissions
from django.db import router

from runs.db.users import has_column

__all__ = [
    "DEMO_USERS",
    "GROUP_NAME",
    "DemoUser",
    "create_missing_demo_users",
    "create_missing_group",
    "find_open_demo_users",
]

GROUP_NAME = "Run operators"
_CODENAMES = (
    "view_runrecord",
    "stop_runrecord",
    "prioritise_runrecord",
    "raise_limits",
    "view_workerrecord",
    "view_datastoreentry",
    "view_ownerusage",
)


def create_missing_group(
    app_config: AppConfig, using: str, apps: Any = installed, **kwargs: Any
) -> None:
    """Create the group of the operators, who see and stop other people's runs.

    An existing group keeps the permissions that an admin gave it. Receiver of ``post_migrate`` of
    our app; ``flush`` sends it without ``apps``. After ``migrate runs zero`` there is no group to
    create: the models are missing.
    """
    # Django creates permissions in a receiver of its own, which may run later than this one.
    create_permissions(app_config, verbosity=0, using=using, apps=apps)
    if not router.allow_migrate(using, "runs"):  # another database of the site
        return
    try:
        groups = apps.get_model("auth", "Group").objects.using(using)
        permissions = apps.get_model("auth", "Permission").objects.using(using)
        apps.get_model("runs", "RunRecord")
    except LookupError:
        return
    group, is_new = groups.get_or_create(name=GROUP_NAME)
    if is_new:
        group.permissions.set(
            permissions.filter(content_type__app_label="runs", codename__in=_CODENAMES)
        )


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A user whose password is the name. The README publishes it."""

    name: str
    is_superuser: bool

    def __str__(self) -> str:
        return f"{self.name}/{self.name} ({'superuser' if self.is_superuser else 'ordinary'})"


DEMO_USERS = (DemoUser("demo", is_superuser=False), DemoUser("admin", is_superuser=True))


def create_missing_demo_users() -> list[DemoUser]:
    """Create the demo users that don't exist, and return them; leave existing users alone."""
    model = get_user_model()
    users: Any = model._default_manager
    names = model.USERNAME_FIELD
    missing = [demo for demo in DEMO_USERS if not users.filter(**{names: demo.name}).exists()]
    for demo in missing:
        create = users.create_superuser if demo.is_superuser else users.create_user
        create(**{names: demo.name}, password=demo.name)
    return missing


def find_open_demo_users() -> list[DemoUser]:
    """Return the demo users who can sign in with the published password.

    The first call takes a good part of a second, because it hashes passwords.
    """
    model = get_user_model()
    if not has_column("password"):
        return []
    names = model.USERNAME_FIELD
    known = model._default_manager.filter(**{f"{names}__in": [demo.name for demo in DEMO_USERS]})
    active = known.filter(is_active=True) if has_column("is_active") else known
    passwords = dict(active.values_list(names, "password"))
    found = [demo for demo in DEMO_USERS if demo.name in passwords]
    return [demo for demo in found if _is_open(demo.name, passwords[demo.name])]


@cache  # the answer for a hash never changes, and the sign-in page asks each time
def _is_open(name: str, stored: str) -> bool:
    # Not user.check_password(): it may write a better hash back.
    return check_password(name, stored)
