"""The Django app: its checks, its group, its connections, and the secrets to redact from output."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate

from agents.process.threads import set_host
from agents.tools.http import proxies
from agents.values import redaction

from .conf import conf

__all__ = ["RunsConfig"]


class RunsConfig(AppConfig):
    name = "runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from runs.db.agent_connections import AgentConnections, follow_connections
        from runs.db.connecting import note_connection
        from runs.ops.accounts import create_missing_group

        from . import checks  # noqa: F401 - registers the system checks

        post_migrate.connect(create_missing_group, sender=self)
        connection_created.connect(note_connection)
        follow_connections()
        set_host(AgentConnections())
        redaction.add_secret(settings.SECRET_KEY)
        redaction.add_secret(settings.METRICS_TOKEN or None)
        for database in settings.DATABASES.values():
            redaction.add_secret(database.get("PASSWORD") or None)
        llm = conf().llm
        redaction.add_secret(llm.api_key)
        proxies.hide_secrets(llm.base_url)
        proxies.hide_secrets(llm.proxy_url)
