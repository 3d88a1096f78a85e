"""The group that a staff member needs to be in to look after other people's runs."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.contrib.auth.management import create_permissions

__all__ = ["GROUP_NAME", "create_missing_group"]

GROUP_NAME = "Run operators"
_CODENAMES = (
    "view_runrecord",
    "stop_runrecord",
    "prioritise_runrecord",
    "view_workerrecord",
    "view_datastoreentry",
)


def create_missing_group(
    app_config: AppConfig, using: str, apps: Any = installed, **kwargs: Any
) -> None:
    """Make the group after a migration; one that is there keeps what was changed in it.

    ``flush`` sends the signal without ``apps``.

    Receiver of ``post_migrate``, sent by our app. Nothing is done while the tables of another
    state of the project are there (``migrate runs zero``).
    """
    # Django makes permissions in a receiver of its own, which may come after this one.
    create_permissions(app_config, verbosity=0, using=using, apps=apps)
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
