"""System checks: report a wrong setting before production does.

    runs.E001  RUNS has names that are no option
    runs.E002  an option has a value of the wrong kind, or out of its range
    runs.E003  DEBUG with --deploy
    runs.E004  the secret key is the published one (--deploy)
    runs.W001  the lease is so short that a pause of the machine loses runs
    runs.W002  an API key travels over plain http to a host elsewhere
    runs.W003  ALLOWED_HOSTS lets every Host header through (--deploy)
    runs.W004  a real model endpoint, but no default model
    runs.W020  AGENTS_HTTP_ALLOW lets agents reach every address (--deploy)

They read settings only: checks run before the database exists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Caution
from pydantic import TypeAdapter, ValidationError

from runs.conf import Options, conf, unknown_names

__all__ = ["check_deployment", "check_options"]

_Apps = Sequence[AppConfig] | None

_SENSIBLE_LEASE_SECONDS = 3


@register()
def check_options(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check ``settings.RUNS``."""
    unknown = [
        Error(
            f"RUNS has {name!r}, which is no option.",
            hint="runs/conf.py lists the options.",
            id="runs.E001",
        )
        for name in unknown_names(getattr(settings, "RUNS", {}))
    ]
    options = conf()
    return [*unknown, *(list(_wrong_values(options)) or _unwise_values(options))]


@register(Tags.security, deploy=True)
def check_deployment(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check settings that are harmless on a developer's machine and dangerous on a server."""
    return list(_dangers())


def _dangers() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        yield Error(
            "DEBUG is on: error pages show source and settings to every visitor.",
            hint="Unset DJANGO_DEBUG.",
            id="runs.E003",
        )
    if settings.SECRET_KEY.startswith("django-insecure-"):
        yield Error(
            "SECRET_KEY is the published one: anyone can sign in as any user.",
            hint="Set DJANGO_SECRET_KEY to a long random text, "
            'as from python -c "import secrets; print(secrets.token_urlsafe(50))".',
            id="runs.E004",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Caution(
            "ALLOWED_HOSTS has '*': any Host header passes, and the check of a socket's "
            "Origin with it.",
            hint="Set DJANGO_ALLOWED_HOSTS to the names that the site is reached by.",
            id="runs.W003",
        )

    if "*" in conf().http.allow:
        yield Caution(
            "AGENTS_HTTP_ALLOW is '*': a user's address can lead an agent to any service of this "
            "network, and to a cloud's metadata.",
            hint="Name the hosts, addresses or networks that agents need.",
            id="runs.W020",
        )


def _wrong_values(options: Options) -> Iterator[CheckMessage]:
    for name, type_ in get_type_hints(Options, include_extras=True).items():
        try:
            TypeAdapter(type_).validate_python(getattr(options, name), strict=True)
        except ValidationError as error:
            variable = name if name == "api_throttle_rate" else f"runs_{name}"
            yield Error(
                f"RUNS[{name.upper()!r}] is {getattr(options, name)!r}.",
                hint=f"{error.errors()[0]['msg']}. "
                f"The environment's name for it is {variable.upper()} (see README.md).",
                id="runs.E002",
            )

    try:
        _ = options.http.reach
    except ValueError as error:
        yield Error(
            f"RUNS['HTTP']['ALLOW']: {error}.",
            hint="The environment's name for it is AGENTS_HTTP_ALLOW (see README.md).",
            id="runs.E002",
        )


def _unwise_values(options: Options) -> Iterator[CheckMessage]:
    if options.lease_seconds < _SENSIBLE_LEASE_SECONDS:
        yield Caution(
            f"RUNS_LEASE_SECONDS is {options.lease_seconds:g}: a worker that pauses for so "
            "short a time loses its runs to others.",
            hint=f"Use at least {_SENSIBLE_LEASE_SECONDS}; the default is 15.",
            id="runs.W001",
        )
    llm = options.llm
    if llm.api_key and _is_plain_http_elsewhere(llm.base_url):
        yield Caution(
            "LLM_BASE_URL is plain http to another network: LLM_API_KEY and every prompt "
            "can be read on the way.",
            hint="Use https.",
            id="runs.W002",
        )
    if not llm.is_stand_in and not llm.model:
        yield Caution(
            "LLM_MODEL is not set: every call of call_llm has to name its model.",
            hint="Set LLM_MODEL to a model that the endpoint serves.",
            id="runs.W004",
        )


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
