"""Read a document: text, an http(s) address or a data URL."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import urllib.parse

import httpx

from agents import guarded_transport
from agents.exceptions import AddressRefused, BodyRefused, DocumentError, InvalidAddress
from agents.tools.confined.calls import ConfinedError, Refused, call_confined
from agents.tools.http.client import public_only

from . import reading

__all__ = ["MAX_BYTES", "read_document"]

MAX_BYTES = 20_000_000
MAX_REDIRECTS = 5
FETCH_SECONDS = 60.0
SMALL_BYTES = 64 * 1024  # no larger, and no PDF: this process reads it, in at most 0.1 s

# Of any scheme: an address is no text to summarise.
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://\S*", re.IGNORECASE)
_DATA_URL = re.compile(
    r"data:([\w.+-]+/[\w.+-]+(;[\w.+=%\"'-]+)*|(;[\w.+=%\"'-]+)+),", re.IGNORECASE
)


async def read_document(document: str) -> str:
    """Return the text of a document.

    ``document`` is one http(s) address, or a data URL (a PDF in JSON is
    ``data:application/pdf;base64,...``), or the text itself. PDF, HTML and plain text are read.

    Raises:
        AddressRefused: the address, or one that it redirects to, may not be visited.
        DocumentError: it can't be fetched or read, is too large, or has no text.
        AgentStopped: a stop was requested.
    """
    given = document.strip()
    if address := _ADDRESS.fullmatch(given):
        if (scheme := address[1].lower()) not in ("http", "https"):
            raise AddressRefused(f"only http and https addresses may be visited, not {scheme}:")
        text = await _text_of(*await _fetch(given))
    elif _DATA_URL.match(given):
        text = await _text_of(*await asyncio.to_thread(_unpack, given))
    else:
        text = given
    if len(text) > SMALL_BYTES:
        return await asyncio.to_thread(_tidied, text)
    return _tidied(text)


def _tidied(text: str) -> str:
    # JSON and databases refuse NUL and lone surrogates, which PDFs have.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd").strip()
    if not text:
        raise DocumentError("the document is empty")
    try:
        reading.check_text(text, "the document can't be read: it is no text")
    except ValueError as error:
        raise DocumentError(str(error)) from error
    return text


async def _text_of(body: bytes, content_type: str) -> str:
    if not body:
        raise DocumentError("the document is empty")
    try:
        if len(body) <= SMALL_BYTES and not reading.takes_long(body, content_type):
            return await asyncio.to_thread(reading.read, body, content_type)
        return await call_confined(reading.read, body, content_type)
    except (ValueError, Refused) as error:
        raise DocumentError(str(error)) from error
    except ConfinedError as error:
        raise DocumentError(f"the document can't be read: {error}") from error


async def _fetch(url: str) -> tuple[bytes, str]:
    """Return the body and the Content-Type of ``url``, within limits of time, size and redirects.

    A user's address could point into our own network; ``public_only()`` checks where each request
    goes, redirects included.
    """
    client = httpx.AsyncClient(
        transport=guarded_transport(public_only(), max_body_bytes=MAX_BYTES),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        headers={"User-Agent": "Halting (sample agent)"},
    )
    try:
        host = httpx.URL(url).host
        async with asyncio.timeout(FETCH_SECONDS), client, client.stream("GET", url) as response:
            if not response.is_success:
                raise DocumentError(f"{host} answered {response.status_code}")
            body = await response.aread()
            if len(body) > MAX_BYTES:  # of a fake, which had it before the limit was looked at
                raise DocumentError(f"{host} sent more than {MAX_BYTES:,} bytes")
    except TimeoutError as error:
        raise DocumentError(f"{host} took more than {FETCH_SECONDS:g} s") from error
    except AddressRefused:
        raise
    except InvalidAddress as error:
        raise DocumentError(str(error)) from error
    except BodyRefused as error:
        raise DocumentError(f"the document of {host} can't be read: {error}") from error
    except (httpx.InvalidURL, UnicodeError) as error:
        raise DocumentError(f"the address can't be visited: {error}") from error
    except httpx.HTTPError as error:
        raise DocumentError(
            f"{host} can't be read: {str(error) or type(error).__name__}"
        ) from error
    return body, response.headers.get("Content-Type", "")


def _unpack(data_url: str) -> tuple[bytes, str]:
    """Return the body and the Content-Type of a data URL."""
    about, _, data = data_url[len("data:") :].partition(",")
    is_base64 = about.lower().endswith(";base64")
    about = about[: -len(";base64")] if is_base64 else about
    try:
        if is_base64:
            body = base64.b64decode("".join(urllib.parse.unquote(data).split()), validate=True)
        else:
            body = urllib.parse.unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"the data URL is broken: {error}") from error
    if len(body) > MAX_BYTES:
        raise DocumentError(f"the document has more than {MAX_BYTES:,} bytes")
    return body, urllib.parse.unquote(about)
