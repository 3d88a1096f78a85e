"""The Django app: its checks, its group, its connections, and the secrets to redact from output."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

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
    name = __package__
    label = "runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from runs.actions import owners
        from runs.db.agent_connections import AgentConnections, follow_connections
        from runs.db.connecting import note_connection
        from runs.db.options import complete_options
        from runs.ops.accounts import create_missing_group

        from . import checks  # noqa: F401 - registers the system checks
        from .asgi import checks as _checks  # noqa: F401 - of the installation

        complete_options()
        post_migrate.connect(create_missing_group, sender=self)
        connection_created.connect(note_connection)
        follow_connections()
        set_host(AgentConnections())
        options = conf()
        redaction.add_secret(options.llm.api_key)
        for address in (options.llm.base_url, options.llm.proxy_url, options.http.proxy_url):
            proxies.hide_secrets(address)
        for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS, options.metrics_token):
            redaction.add_secret(secret)
        owners.connect()
        for database in settings.DATABASES.values():
            redaction.add_secret(database.get("PASSWORD"))
            redaction.add_secret(str(database.get("OPTIONS", {}).get("password", "")))
        for layer in getattr(settings, "CHANNEL_LAYERS", {}).values():
            for key in layer.get("CONFIG", {}).get("symmetric_encryption_keys", ()):
                redaction.add_secret(key)
        for cache in settings.CACHES.values():
            _hide_passwords(cache.get("LOCATION"))


def _hide_passwords(address: object) -> None:
    """Hide the passwords in an address of Redis; one may also stand in the query."""
    if isinstance(address, str):
        proxies.hide_secrets(address)
        for password in parse_qs(urlsplit(address).query).get("password", ()):
            redaction.add_secret(password)
