"""System checks of how a site includes Halting: its apps, addresses, ASGI and channel layer.

    runs.E007  another app's runserver or runworker comes first
    runs.E008  ASGI_APPLICATION is missing, or Halting has no part in it
    runs.E009  there is no channel layer, or its settings are wrong
    runs.E010  the site's addresses don't include runs.urls

Importing this module registers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from channels.layers import channel_layers
from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.management import get_commands

from agents.values.redaction import redact
from runs import asgi
from runs.web import addresses

__all__ = ["check_installation"]


@register()
def check_installation(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Check what a site adds to its settings, ``urls.py`` and ``asgi.py``."""
    return [*_lost_commands(), *_unusable_layer(), *_missing_addresses(), *_missing_application()]


def _lost_commands() -> Iterator[CheckMessage]:
    own = apps.get_app_config("runs").name
    commands = get_commands()
    for name in ("runserver", "runworker"):
        if commands[name] != own:
            yield Error(
                f"manage.py {name} is that of {commands[name]!r}, which runs no agents.",
                hint=f"Put {own!r} before it in INSTALLED_APPS: the first app wins.",
                id="runs.E007",
            )


def _unusable_layer() -> Iterator[CheckMessage]:
    if "default" not in getattr(settings, "CHANNEL_LAYERS", {}):
        yield Error(
            "There is no channel layer, which carries starts, stops and what pages show.",
            hint="One process: CHANNEL_LAYERS = "
            '{"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}. '
            "Several: docs/installing.md has the layer on Redis.",
            id="runs.E009",
        )
        return
    try:
        channel_layers.make_backend("default")  # which connects to no server yet
    except Exception as error:  # of any kind: each layer has its own
        yield Error(
            # An address that is refused may have a password in it.
            f"The channel layer can't be made: {type(error).__name__}: {redact(str(error))}",
            hint="See CHANNEL_LAYERS in the site's settings; docs/installing.md has an example.",
            id="runs.E009",
        )


def _missing_addresses() -> Iterator[CheckMessage]:
    if not addresses.exists("halting:api-runs"):
        own = apps.get_app_config("runs").name
        yield Error(
            f"ROOT_URLCONF does not include {own}.urls.",
            hint=f'Add path("", include("{own}.urls")) to its urlpatterns; a prefix is possible.',
            id="runs.E010",
        )


def _missing_application() -> Iterator[CheckMessage]:
    path = getattr(settings, "ASGI_APPLICATION", None)
    hint = (
        f"In the site's asgi.py: from {asgi.__name__} import get_asgi_application. "
        'In its settings: ASGI_APPLICATION = "<package>.asgi.application".'
    )
    if not path:
        yield Error("ASGI_APPLICATION is not set.", hint=hint, id="runs.E008")
        return
    try:
        import_module(path.rpartition(".")[0])
    except Exception as error:  # of the site's own code
        yield Error(
            f"ASGI_APPLICATION, {path!r}, can't be imported: {type(error).__name__}: {error}",
            hint=hint,
            id="runs.E008",
        )
        return
    # A site may wrap the application, so its type says nothing.
    if not asgi.is_application_made():
        yield Error(
            f"ASGI_APPLICATION, {path!r}, is not made by {asgi.__name__}.get_asgi_application: "
            "no agent would run, and no page would be kept up to date.",
            hint=hint,
            id="runs.E008",
        )
