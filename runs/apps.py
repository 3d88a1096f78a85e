"""The Django app: its checks, its group, and the secrets to redact from captured output."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate

from agents.values import redaction

__all__ = ["RunsConfig"]


class RunsConfig(AppConfig):
    name = "runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from runs.actions import deactivating
        from runs.db.connecting import note_connection
        from runs.ops.accounts import create_missing_group

        from . import checks  # noqa: F401 - registers the system checks

        post_migrate.connect(create_missing_group, sender=self)
        connection_created.connect(note_connection)
        deactivating.connect()
        redaction.add_secret(settings.SECRET_KEY)
        redaction.add_secret(settings.METRICS_TOKEN or None)
        for database in settings.DATABASES.values():
            redaction.add_secret(database.get("PASSWORD") or None)
