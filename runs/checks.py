"""System checks: report a wrong setting before production does.

    runs.E001  RUNS has names that are no option
    runs.E002  an option has a value of the wrong kind, or out of its range
    runs.E003  DEBUG with --deploy
    runs.E004  the secret key is the published one (--deploy)
    runs.E005  USE_TZ is off
    runs.E006  a router keeps what belongs together in different databases
    runs.E020  a key, a name or an address of the model that can't work
    runs.W001  the lease is so short that a pause of the machine loses runs
    runs.W002  an API key travels over plain http to a host elsewhere
    runs.W003  ALLOWED_HOSTS lets every Host header through (--deploy)
    runs.W004  a real model endpoint, but no default model
    runs.W005  Redis has no password (--deploy)
    runs.W006  the password of Redis travels without TLS to a host elsewhere (--deploy)
    runs.W007  the database role is a superuser (--deploy --database default)
    runs.W008  web processes without a worker, and no Redis
    runs.W009  an environment variable that looks like a setting, and is none
    runs.W010  the pool of the database is smaller than a worker needs
    runs.W020  AGENTS_HTTP_ALLOW lets agents reach every address (--deploy)

All but W007 read settings only: checks run before the database exists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Sequence
from typing import Any, get_type_hints
from urllib.parse import parse_qs, urlsplit

from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Caution
from django.db import connections, router
from pydantic import TypeAdapter, ValidationError

from agents.tools.http.proxies import proxy_problem
from agents.values.addresses import AllowList
from runs.conf import Options, conf, unknown_names
from runs.db.alias import alias
from runs.db.options import POOL_SIZE

__all__ = [
    "check_database_role",
    "check_databases",
    "check_deployment",
    "check_options",
    "check_redis",
]

_Apps = Sequence[AppConfig] | None

_SENSIBLE_LEASE_SECONDS = 3
_SENSIBLE_POOL_SIZE = 10


@register()
def check_options(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check ``settings.RUNS``."""
    unknown: list[CheckMessage] = [
        Error(
            f"RUNS has {name!r}, which is no option.",
            hint="runs/conf.py lists the options.",
            id="runs.E001",
        )
        for name in unknown_names(getattr(settings, "RUNS", {}))
    ]
    unknown += [
        Caution(
            f"The environment has {name}, and no setting has that name.",
            hint="README.md lists the settings.",
            id="runs.W009",
        )
        for name in getattr(settings, "UNKNOWN_VARIABLES", ())
    ]
    options = conf()
    return [*unknown, *(list(_wrong_values(options)) or _unwise_values(options))]


@register()
def check_databases(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check what the site says of its instants and of where its tables are."""
    return [*_time_zone_problems(), *_router_problems(), *_small_pools()]


def _time_zone_problems() -> Iterator[CheckMessage]:
    if not settings.USE_TZ:
        # SQLite refuses aware instants then, and so each batch of a log. On PostgreSQL the instants
        # that were read can't be compared with those of messages and tokens.
        yield Error(
            "USE_TZ is off: runs have aware instants, which the database would not take, and no "
            "run could end.",
            hint="Set USE_TZ = True. TIME_ZONE may be any.",
            id="runs.E005",
        )


def _router_problems() -> Iterator[CheckMessage]:
    ours = [*apps.get_app_config("runs").get_models()]
    if apps.is_installed("runs.identity"):
        ours += apps.get_app_config("identity").get_models()
    for model in (*ours, get_user_model()):
        used = {router.db_for_write(model)}
        if model in ours:
            used.add(router.db_for_read(model))
        if used != {alias()}:
            yield Error(
                f"A router sends {model._meta.label} to {', '.join(sorted(used))}, and the runs to "
                f"{alias()}.",
                hint="The apps runs and identity are read from and written to one database, since "
                "a replica is late. The users are in the same one: foreign keys lead to them.",
                id="runs.E006",
            )


def _small_pools() -> Iterator[CheckMessage]:
    pool = connections[alias()].settings_dict["OPTIONS"].get("pool")
    if not pool or not isinstance(pool, dict):  # db.options has given True a size
        return
    most = pool.get("max_size") or pool.get("min_size", 4)  # psycopg_pool's own
    if most < _SENSIBLE_POOL_SIZE:
        yield Caution(
            f"The pool of the database {alias()!r} has at most {most} connections: the threads of "
            "a process that runs agents hold eight, and requests wait for the others.",
            hint=f"Set OPTIONS['pool'] to {{'max_size': {POOL_SIZE}}}.",
            id="runs.W010",
        )


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
            "SECRET_KEY is not secret, but published or from startproject: others can sign in.",
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


@register(Tags.security, deploy=True)
def check_redis(app_configs: _Apps, **_: Any) -> list[CheckMessage]:
    """Check who else may write to the Redis that the processes use."""
    return list(_dangers_of_redis(_redis_address()))


def _redis_address() -> str:
    """Return REDIS_URL, as the settings have it; empty without Redis."""
    location = settings.CACHES.get("default", {}).get("LOCATION", "")
    return location if isinstance(location, str) else ""


def _dangers_of_redis(address: str) -> Iterator[CheckMessage]:
    parts = urlsplit(address)
    if parts.scheme not in {"redis", "rediss"}:  # a socket has the permissions of its file
        return
    given = parse_qs(parts.query)
    if not parts.password and not given.get("password"):
        yield Caution(
            "Redis has no password: each program that reaches it can delay stops and starts, and "
            "reset the limits on requests.",
            hint="Give it one (requirepass, or an ACL), and put it into REDIS_URL: "
            "redis://:password@host:port/0.",
            id="runs.W005",
        )
    if parts.scheme == "redis" and _is_elsewhere(parts.hostname):
        yield Caution(
            "REDIS_URL leads to another network, without TLS: its password can be read on the way.",
            hint="Use rediss://.",
            id="runs.W006",
        )


@register(Tags.database, deploy=True)
def check_database_role(
    app_configs: _Apps, databases: Collection[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Check the role of the database. Runs for ``check --deploy --database default`` only."""
    found: list[CheckMessage] = []
    for name in databases or ():
        connection = connections[name]
        if connection.vendor != "postgresql":
            continue
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            row = cursor.fetchone()
        if row and row[0]:
            found.append(
                Caution(
                    "The role of DATABASE_URL is a superuser of PostgreSQL: it may run programs on "
                    "the database's machine.",
                    hint="Use a role that owns Halting's database and has no other rights "
                    "(docs/deploying.md).",
                    id="runs.W007",
                )
            )
    return found


def _wrong_values(options: Options) -> Iterator[CheckMessage]:
    for name, type_ in get_type_hints(Options, include_extras=True).items():
        try:
            TypeAdapter(type_).validate_python(getattr(options, name), strict=True)
        except ValidationError as error:
            named_so = ("api_", "audit_", "metrics_")
            variable = name if name.startswith(named_so) else f"runs_{name}"
            value = "no text" if name == "metrics_token" else repr(getattr(options, name))
            yield Error(
                f"RUNS[{name.upper()!r}] is {value}.",
                hint=f"{error.errors()[0]['msg']}. "
                f"The environment's name for it is {variable.upper()} (see README.md).",
                id="runs.E002",
            )
    for name, problem in options.llm.problems():
        yield Error(
            f"RUNS['LLM'][{name.upper()!r}] {problem}.",
            hint=f"The environment's name for it is LLM_{name.upper()} (see README.md).",
            id="runs.E020",
        )
    proxy = options.http.proxy_url
    if wrong := proxy_problem(proxy) if isinstance(proxy, str) else "is not a text":
        yield Error(
            f"RUNS['HTTP']['PROXY_URL'] {wrong}.",
            hint="The environment's name for it is AGENTS_HTTP_PROXY_URL (see README.md).",
            id="runs.E002",
        )
    for where, hosts, variable in (
        ("['HTTP']['ALLOW']", options.http.allow, "AGENTS_HTTP_ALLOW"),
        ("['TRACEPARENT_HOSTS']", options.traceparent_hosts, "RUNS_TRACEPARENT_HOSTS"),
    ):
        try:
            AllowList(hosts)
        except (ValueError, AttributeError) as error:  # an entry may be no text
            yield Error(
                f"RUNS{where}: {error}.",
                hint=f"The environment's name for it is {variable} (see README.md).",
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
    if not options.embedded_worker and not _redis_address():
        yield Caution(
            "RUNS_EMBEDDED_WORKER is off, and REDIS_URL is not set: starts, stops and feeds wait "
            "until workers and pages poll, up to a second.",
            hint="Set REDIS_URL for all processes.",
            id="runs.W008",
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
    return parts.scheme == "http" and _is_elsewhere(parts.hostname)


def _is_elsewhere(host: str | None) -> bool:
    """Tell whether a host is in another network, as far as its name or address says."""
    if not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot is near: localhost, or a container of the same project.
        private_names = (".localhost", ".local", ".internal")
        return "." in host and not host.endswith(private_names)
    return not (address.is_private or address.is_loopback or address.is_link_local)
