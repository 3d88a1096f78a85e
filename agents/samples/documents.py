"""From what a person hands over (text, an address, a PDF) to the text in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import urllib.parse
from dataclasses import dataclass
from email.message import Message

import httpx

from agents import guarded_transport
from agents.exceptions import DocumentError
from agents.tools.http.client import public_only

from .html_text import html_to_text
from .pdf_text import pdf_to_text

__all__ = ["MAX_BYTES", "read_document"]

MAX_BYTES = 20_000_000
MAX_REDIRECTS = 5
FETCH_SECONDS = 60.0

_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(;[\w.+=-]+)*,", re.IGNORECASE)
_TEXT_TYPE = re.compile(r"text/.+|application/(.+\+)?(json|xml)|")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HTML_START = re.compile(r"\s*(<!doctype html|<html)\b", re.IGNORECASE)
_CHARSET = re.compile(r"(utf|iso|windows|cp|koi8|mac|latin|ascii|us-ascii|gb|big5|euc|shift|sjis)")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Content:
    """Bytes, and what their sender says they are."""

    body: bytes
    media_type: str  # "" if the sender doesn't say
    charset: str


async def read_document(document: str) -> str:
    """Return the text of a document.

    ``document`` is one http(s) address, or a data URL (``data:application/pdf;base64,...``, which
    is how a PDF comes as JSON), or else the text itself. PDF, HTML and plain text are understood.

    Raises:
        AddressRefused: the address, or one that it redirects to, is not a public one.
        DocumentError: it can't be fetched or read, is too large, or has no text.
        AgentStopped: a stop was asked for.
    """
    given = document.strip()
    if _ADDRESS.fullmatch(given):
        text = await asyncio.to_thread(_to_text, await _fetch(given))
    elif _DATA_URL.match(given):
        text = await asyncio.to_thread(lambda: _to_text(_unpack(given)))
    else:
        text = given
    text = _fit_for_json(text).strip()
    if not text:
        raise DocumentError("the document is empty")
    return text


async def _fetch(url: str) -> _Content:
    """Fetch what is at ``url``, within bounds of time, size and redirects.

    An address that a user hands in could point into our own network; ``public_only()`` looks at
    where each request, redirects included, really goes.
    """
    client = httpx.AsyncClient(
        transport=guarded_transport(public_only()),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        headers={"Accept-Encoding": "gzip, deflate", "User-Agent": "Halting (sample agent)"},
    )
    try:
        host = httpx.URL(url).host
        async with asyncio.timeout(FETCH_SECONDS), client, client.stream("GET", url) as response:
            if not response.is_success:
                raise DocumentError(f"{host} answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise DocumentError(f"{host} sent more than {MAX_BYTES:,} bytes")
    except TimeoutError as error:
        raise DocumentError(f"{host} took more than {FETCH_SECONDS:g} s") from error
    except httpx.InvalidURL as error:
        raise DocumentError(f"this is no address that can be visited: {error}") from error
    except httpx.HTTPError as error:
        raise DocumentError(
            f"{host} can't be read: {str(error) or type(error).__name__}"
        ) from error
    media_type, charset = _parse_content_type(response.headers.get("Content-Type", ""))
    return _Content(bytes(body), media_type, charset)


def _unpack(data_url: str) -> _Content:
    about, _, data = data_url[len("data:") :].partition(",")
    about, is_base64, _ = about.partition(";base64")
    media_type, charset = _parse_content_type(about)
    try:
        if is_base64:
            body = base64.b64decode("".join(urllib.parse.unquote(data).split()), validate=True)
        else:
            body = urllib.parse.unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"the data URL is broken: {error}") from error
    if len(body) > MAX_BYTES:
        raise DocumentError(f"the document has more than {MAX_BYTES:,} bytes")
    return _Content(body, media_type, charset)


def _parse_content_type(value: str) -> tuple[str, str]:
    message = Message()
    message["Content-Type"] = value
    media_type = message.get_content_type() if value.strip() else ""
    return media_type, message.get_content_charset("")


def _to_text(content: _Content) -> str:
    # What the bytes say counts for more than what their sender says: PDFs come as octet-stream.
    if content.media_type == "application/pdf" or b"%PDF-" in content.body[:1024]:
        return pdf_to_text(content.body)
    if not _TEXT_TYPE.fullmatch(content.media_type) and content.media_type not in _HTML_TYPES:
        raise DocumentError(f"a document of type {content.media_type} can't be read")
    is_html = content.media_type in _HTML_TYPES
    text = _decode(content.body, content.charset or (_meta_charset(content) if is_html else ""))
    return html_to_text(text) if is_html or _HTML_START.match(text) else text


def _meta_charset(content: _Content) -> str:
    found = _META_CHARSET.search(content.body[:2048])
    return found[1].decode("ascii", "replace") if found else ""


def _decode(body: bytes, charset: str) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    # Not just any codec that Python has: "punycode" takes minutes for what others read in no time.
    if _CHARSET.match(charset.lower()):
        try:
            return body.decode(charset, "replace")
        except (LookupError, UnicodeError):
            pass
    return body.decode("utf-8-sig", "replace")


def _fit_for_json(text: str) -> str:
    """Replace what JSON and databases refuse: lone surrogates (PDFs have them) and NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
