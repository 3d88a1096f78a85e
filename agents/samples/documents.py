"""Read a document: text, an http(s) address or a data URL."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import urllib.parse
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


async def read_document(document: str) -> str:
    """Return the text of a document.

    ``document`` is one http(s) address, or a data URL (a PDF in JSON is
    ``data:application/pdf;base64,...``), or the text itself. PDF, HTML and plain text are read.

    Raises:
        AddressRefused: the address, or one that it redirects to, is not public.
        DocumentError: it can't be fetched or read, is too large, or has no text.
        AgentStopped: a stop was requested.
    """
    given = document.strip()
    if _ADDRESS.fullmatch(given):
        text = await asyncio.to_thread(_to_text, *await _fetch(given))
    elif _DATA_URL.match(given):
        text = await asyncio.to_thread(lambda: _to_text(*_unpack(given)))
    else:
        text = given
    # JSON and databases refuse NUL and lone surrogates, which PDFs have.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd").strip()
    if not text:
        raise DocumentError("the document is empty")
    return text


async def _fetch(url: str) -> tuple[bytes, str]:
    """Return the body and the Content-Type of ``url``, within limits of time, size and redirects.

    A user's address could point into our own network; ``public_only()`` checks where each request
    goes, redirects included.
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
    return bytes(body), response.headers.get("Content-Type", "")


def _unpack(data_url: str) -> tuple[bytes, str]:
    """Return the body and the Content-Type of a data URL."""
    about, _, data = data_url[len("data:") :].partition(",")
    about, is_base64, _ = about.partition(";base64")
    try:
        if is_base64:
            body = base64.b64decode("".join(urllib.parse.unquote(data).split()), validate=True)
        else:
            body = urllib.parse.unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"the data URL is broken: {error}") from error
    if len(body) > MAX_BYTES:
        raise DocumentError(f"the document has more than {MAX_BYTES:,} bytes")
    return body, about


def _to_text(body: bytes, content_type: str) -> str:
    message = Message()
    message["Content-Type"] = content_type
    media_type = message.get_content_type() if content_type.strip() else ""
    # The bytes count for more than the sender's word: PDFs come as octet-stream.
    if media_type == "application/pdf" or b"%PDF-" in body[:1024]:
        return pdf_to_text(body)
    is_html = media_type in _HTML_TYPES
    if not is_html and not _TEXT_TYPE.fullmatch(media_type):
        raise DocumentError(f"a document of type {media_type} can't be read")
    charset = message.get_content_charset("")
    if is_html and not charset and (found := _META_CHARSET.search(body[:2048])):
        charset = found[1].decode("ascii", "replace")
    text = _decode(body, charset)
    return html_to_text(text) if is_html or _HTML_START.match(text) else text


def _decode(body: bytes, charset: str) -> str:
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    # Not any codec of Python's: "punycode" takes minutes where others take milliseconds.
    if _CHARSET.match(charset.lower()):
        try:
            return body.decode(charset, "replace")
        except (LookupError, UnicodeError):
            pass
    return body.decode("utf-8-sig", "replace")
