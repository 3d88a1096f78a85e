"""Proxies for outgoing requests: which addresses can work, and what in them is secret.

The environment's HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are ignored everywhere: they are
often set for package managers, and prompts and keys must go where the operator says they go.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httpx2

from agents.values import redaction

__all__ = ["hide_secrets", "make_proxy", "parts_of", "proxy_problem"]


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of an http(s) address that a connection can be opened to, else None."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # as the socket will: no empty or endless labels
        httpx2.URL(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx2.InvalidURL):
        return None
    return parts if is_complete and parts.scheme in ("http", "https") else None


def proxy_problem(url: str) -> str | None:
    """Return what is wrong with a proxy's address, as the end of a sentence, without repeating it.

    None if nothing is; "" stands for no proxy.
    """
    if not url:
        return None
    if not url.isprintable() or any(map(str.isspace, url)):
        return "has a blank or a control character inside"
    if url.lower().startswith("socks"):
        return "is a SOCKS proxy; only http:// and https:// proxies are supported"
    parts = parts_of(url)
    if parts is None:
        return "is not an address of the form http://user:password@host:port"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "has a path; a proxy is only a host and a port, with special signs percent-encoded"
    return None


def make_proxy(library: ModuleType, url: str, ssl_context: Callable[[], ssl.SSLContext]) -> Any:
    """Return the ``Proxy`` of httpx or httpx2 for an address, None for "".

    Raises:
        ValueError: the address can't be used.
    """
    if problem := proxy_problem(url):
        raise ValueError(f"the proxy's address {problem}")
    if not url:
        return None
    hide_secrets(url)
    is_tls = url.lower().startswith("https:")
    return library.Proxy(url, ssl_context=ssl_context() if is_tls else None)


def hide_secrets(url: str) -> None:
    """Let redaction take the password in an address out of all captured text."""
    try:
        user, password = urlsplit(url).username, urlsplit(url).password
    except ValueError:
        return
    if not password:
        return
    redaction.add_secret(password)
    redaction.add_secret(unquote(password))
    pair = f"{unquote(user or '')}:{unquote(password)}".encode()
    redaction.add_secret(base64.b64encode(pair).decode())  # as it stands in the header
