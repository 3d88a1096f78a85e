"""Read addresses that operators write: of databases, of Redis, of hosts and networks.

Each function raises ValueError if the address could not work. The text says what is accepted, and
repeats nothing of the address, which may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import dj_database_url

__all__ = [
    "check_host_pattern",
    "check_listening",
    "check_proxy",
    "parse_database",
    "parse_redis",
]

_POSTGRES = "postgres://user:password@host:port/name"
_DATABASES = f"{_POSTGRES} or sqlite:////path/to/file"
_REDIS = "redis://:password@host:port/0, rediss:// for TLS, or unix:///path/to/socket"
_ENCODED = "with special signs percent-encoded"
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_OF_DJANGO = frozenset({"assume_role", "isolation_level", "server_side_binding"})
# Django's HttpRequest.get_host() admits no other characters, and no port is left to compare.
_HOST = re.compile(
    r"\.?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_LISTENING = re.compile(
    r"((\d{1,3}(\.\d{1,3}){3}|\[[a-fA-F0-9:.]+\]|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*):)?(?P<port>\d{1,5})"
)


def parse_redis(address: str) -> str:
    """Return the address of a Redis. redis-py itself takes much that it then ignores."""
    import redis  # here, as psycopg below: a process on SQLite alone starts faster without

    parts = _split(address)
    if parts is None or parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(f"{_REDIS}, {_ENCODED}")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ValueError(_REDIS)
    elif not parts.hostname or not re.fullmatch(r"/?|/\d{1,5}", parts.path):
        # redis-py would use localhost, or the database 0.
        raise ValueError(f"{_REDIS}, with a host, and a number as its database, {_ENCODED}")
    try:
        redis.ConnectionPool.from_url(address).make_connection()  # which connects to nothing
    except (TypeError, ValueError):
        raise ValueError(f"{_REDIS}, with no options but those of redis-py") from None
    return address


def parse_database(address: str) -> dict[str, Any]:
    """Return an entry of DATABASES."""
    if address.partition("://")[0] not in {"postgres", "postgresql", "sqlite"}:
        raise ValueError(_DATABASES)
    parts = _split(address)
    try:
        database: dict[str, Any] = {**dj_database_url.parse(address)}
    except ValueError:
        parts = None
    if parts is None and address != "sqlite://:memory:":
        raise ValueError(f"{_DATABASES}, {_ENCODED}")
    if database["NAME"] in {"", ":memory:"}:
        # Each thread, the worker's included, would see an empty database of its own.
        raise ValueError(f"{_DATABASES}; it must name a database, and not :memory:")
    if database["ENGINE"].endswith("sqlite3"):
        if not Path(database["NAME"]).absolute().parent.is_dir():
            raise ValueError("sqlite:////path/to/file in a folder that there is")
    else:
        _check_options(database.get("OPTIONS", {}))
    return database


def _check_options(options: dict[str, Any]) -> None:
    import psycopg
    from psycopg.conninfo import make_conninfo

    if str(options.get("sslmode", "prefer")) not in _SSL_MODES:
        raise ValueError(f"{_POSTGRES} with sslmode one of {', '.join(sorted(_SSL_MODES))}")
    of_libpq = {name: value for name, value in options.items() if name not in _OF_DJANGO}
    try:
        make_conninfo("", **of_libpq)  # libpq's own parser knows the names
    except (psycopg.Error, TypeError):
        raise ValueError(f"{_POSTGRES}, with no options but those of libpq") from None


def check_host_pattern(host: str) -> None:
    """Check an entry of ALLOWED_HOSTS: Django never says that one can match no request."""
    if host == "*" or _HOST.fullmatch(host):
        return
    try:
        if host.startswith("[") and host.endswith("]"):
            ipaddress.IPv6Address(host[1:-1])
            return
    except ValueError:
        pass
    raise ValueError(
        "names or addresses, separated by commas: halting.example.org, .example.org for all below "
        "it, 10.1.2.3, [::1], or *; without http://, port or path, and with xn-- for letters "
        "outside a-z"
    )


def check_proxy(address: str) -> None:
    """Check an entry of FORWARDED_ALLOW_IPS: uvicorn takes any text, which then matches nothing."""
    try:
        ipaddress.ip_network(address)
    except ValueError:
        raise ValueError(
            "addresses or networks, separated by commas, as 10.1.2.3, 10.1.2.0/24, fd00::/8; or *"
        ) from None


def check_listening(address: str) -> None:
    """Check where a process is to listen. Whether it can is seen when it does."""
    match = _LISTENING.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("a port, address:port or [IPv6]:port; the port 0 is any free one")


def _split(address: str) -> SplitResult | None:
    """Return the parts of an address, or None if it is malformed or has odd characters."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises, too
    except ValueError:
        return None
    if re.search(r"\s", address) or re.search(r"[\x00-\x1f\x7f]", unquote(address)):
        return None
    return parts
