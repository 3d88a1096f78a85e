"""System checks: report a wrong setting before production does.

    runs.E001  RUNS has names that are no option
    runs.E002  an option has a value of the wrong kind, or out of its range
    runs.E003  DEBUG with --deploy
    runs.E004  the secret key is the published one (--deploy)
    runs.W001  the lease is so short that a pause of the machine loses runs
    runs.W002  an API key travels over plain http to a host elsewhere
    runs.W003  ALLOWED_HOSTS lets every Host header through (--deploy)
    runs.W004  a real model endpoint, but no default model

They read settings only: checks run before the database exists.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Caution

from agents.options import LONGEST_SECONDS
from runs.conf import Options, conf, unknown_names

__all__ = ["check_deployment", "check_options"]

_Apps = Sequence[AppConfig] | None

_MOST_DAYS = 36_500
# A lease is renewed every third of it; below this the renewals crowd out the work.
_SHORTEST_LEASE_SECONDS = 1
_SENSIBLE_LEASE_SECONDS = 3


@register()
def check_options(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check ``settings.RUNS``."""
    messages: list[CheckMessage] = [
        Error(
            f"RUNS has {name!r}, which is no option.",
            hint="runs/conf.py lists the options.",
            id="runs.E001",
        )
        for name in unknown_names(getattr(settings, "RUNS", {}))
    ]
    options = conf()
    wrong = _wrong_values(options)
    messages += wrong
    if not wrong:
        messages += _unwise_values(options)
    return messages


@register(Tags.security, deploy=True)
def check_deployment(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check settings that are harmless on a developer's machine and dangerous on a server."""
    messages: list[CheckMessage] = []
    if settings.DEBUG:
        messages.append(
            Error(
                "DEBUG is on: error pages show source and settings to every visitor.",
                hint="Unset DJANGO_DEBUG.",
                id="runs.E003",
            )
        )
    if settings.SECRET_KEY.startswith("django-insecure-"):
        messages.append(
            Error(
                "SECRET_KEY is the published one: anyone can sign in as any user.",
                hint="Set DJANGO_SECRET_KEY to a long random text, "
                'as from python -c "import secrets; print(secrets.token_urlsafe(50))".',
                id="runs.E004",
            )
        )
    if "*" in settings.ALLOWED_HOSTS:
        messages.append(
            Caution(
                "ALLOWED_HOSTS has '*': any Host header passes, and the check of a socket's "
                "Origin with it.",
                hint="Set DJANGO_ALLOWED_HOSTS to the names that the site is reached by.",
                id="runs.W003",
            )
        )
    return messages


def _wrong_values(options: Options) -> list[CheckMessage]:
    def wrong(name: str, value: Any, accepted: str) -> CheckMessage:
        return Error(
            f"RUNS[{name.upper()!r}] is {value!r}.",
            hint=f"Accepted: {accepted}. "
            f"The environment's name for it is {_VARIABLES[name]} (see README.md).",
            id="runs.E002",
        )

    messages = []
    # Nothing has checked the annotations before this.
    value: Any = options.embedded_worker
    if not isinstance(value, bool):
        messages.append(wrong("embedded_worker", value, "True or False"))
    for name, at_least in (("max_concurrent", 1), ("max_per_owner", 0), ("max_input_bytes", 1)):
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            messages.append(wrong(name, value, f"a whole number of at least {at_least}"))
    for name, least in (("lease_seconds", _SHORTEST_LEASE_SECONDS), ("drain_seconds", 0)):
        value = getattr(options, name)
        if not _is_number(value) or value < least:
            messages.append(wrong(name, value, f"a number of seconds, at least {least}"))
    value = options.queue_seconds
    if not _is_number(value) or not 0 <= value <= LONGEST_SECONDS:
        messages.append(wrong("queue_seconds", value, "a number of seconds from 0 up to a year"))
    for name in ("keep_days", "keep_logs_days"):
        value = getattr(options, name)
        if not _is_number(value) or not 0 <= value <= _MOST_DAYS:
            messages.append(wrong(name, value, "a number of days from 0 up to a century"))
    value = options.api_throttle_rate
    if value is not None and not (isinstance(value, str) and "/" in value):
        messages.append(wrong("api_throttle_rate", value, "a rate such as '600/min', or None"))
    return messages


def _unwise_values(options: Options) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    if options.lease_seconds < _SENSIBLE_LEASE_SECONDS:
        messages.append(
            Caution(
                f"RUNS_LEASE_SECONDS is {options.lease_seconds:g}: a worker that pauses for so "
                "short a time loses its runs to others.",
                hint=f"Use at least {_SENSIBLE_LEASE_SECONDS}; the default is 15.",
                id="runs.W001",
            )
        )
    llm = options.llm
    if llm.api_key and _is_plain_http_elsewhere(llm.base_url):
        messages.append(
            Caution(
                "LLM_BASE_URL is plain http to another network: LLM_API_KEY and every prompt "
                "can be read on the way.",
                hint="Use https.",
                id="runs.W002",
            )
        )
    if not llm.is_stand_in and not llm.model:
        messages.append(
            Caution(
                "LLM_MODEL is not set: every call of call_llm has to name its model.",
                hint="Set LLM_MODEL to a model that the endpoint serves.",
                id="runs.W004",
            )
        )
    return messages


_VARIABLES = {
    "embedded_worker": "RUNS_EMBEDDED_WORKER",
    "max_concurrent": "RUNS_MAX_CONCURRENT",
    "max_per_owner": "RUNS_MAX_PER_OWNER",
    "queue_seconds": "RUNS_QUEUE_SECONDS",
    "keep_days": "RUNS_KEEP_DAYS",
    "keep_logs_days": "RUNS_KEEP_LOGS_DAYS",
    "lease_seconds": "RUNS_LEASE_SECONDS",
    "drain_seconds": "RUNS_DRAIN_SECONDS",
    "max_input_bytes": "RUNS_MAX_INPUT_BYTES",
    "api_throttle_rate": "API_THROTTLE_RATE",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain_http_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return False
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        # A name without a dot is near: localhost, or a container of the same project.
        private_names = (".localhost", ".local", ".internal")
        return "." in parts.hostname and not parts.hostname.endswith(private_names)
    return not (address.is_private or address.is_loopback or address.is_link_local)
