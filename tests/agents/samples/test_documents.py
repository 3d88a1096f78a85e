"""A document is text, an address or a data URL; addresses are fetched within bounds."""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import httpx
import pytest

from agents import AgentStopped
from agents.cancellation import CancelToken, bind_token
from agents.exceptions import AddressRefused, DocumentError
from agents.samples import documents
from agents.samples.documents import read_document
from agents.tools.http.client import public_only
from tests.support.pdfs import as_data_url, make_pdf

PUBLIC = "93.184.215.14"
Handler = Callable[[httpx.Request], httpx.Response]
Web = Callable[..., list[httpx.Request]]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    """Put ``handler`` in place of the net, behind the real check of addresses.

    ``names`` says where names lead; all others are public. Returns the requests that got through.
    """

    def put(handler: Handler, names: Mapping[str, str] | None = None) -> list[httpx.Request]:
        requests: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            requests.append(request)
            return handler(request)

        async def resolve(host: str, port: int) -> Sequence[str]:
            return [(names or {}).get(host, PUBLIC)]

        monkeypatch.setattr(
            documents,
            "public_only",
            lambda: public_only(httpx.MockTransport(handle), resolver=resolve),
        )
        return requests

    return put


def answer(content: bytes, content_type: str, **headers: str) -> Handler:
    return lambda request: httpx.Response(
        200, content=content, headers={"Content-Type": content_type, **headers}
    )


@pytest.mark.parametrize(
    "text",
    ["Stop means stop.", "https://example.org says so", "data: the results, so far", "data:,x"],
)
async def test_text_is_taken_as_it_is(text: str) -> None:
    assert await read_document(f"  {text}\n") == text


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n\t ", "data:text/plain,", "data:text/html,<p></p>", "data:text/plain,%20%0A"),
        *("data:application/pdf,", "\u3000\u200a", "data:text/plain,%EF%BB%BF"),
    ],
)
async def test_an_empty_document_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="is empty"):
        await read_document(text)


async def test_what_json_and_databases_refuse_is_replaced() -> None:
    assert await read_document("a\0b\ud800c") == "a\ufffdb?c"


async def test_a_pdf_comes_as_a_data_url() -> None:
    assert await read_document(as_data_url(make_pdf("Stop means stop."))) == "Stop means stop."


async def test_a_data_url_may_be_wrapped_escaped_and_of_any_case() -> None:
    url = as_data_url(make_pdf("Stop means stop.")).replace("data:", "DATA:").replace("+", "%2B")
    wrapped = "\n".join(url[i : i + 76] for i in range(0, len(url), 76))

    assert await read_document(wrapped) == "Stop means stop."


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:text/plain;charset=utf-8,caf%C3%A9", "café"),
        ("data:text/plain;charset=iso-8859-1,caf%E9", "café"),
        ("data:text/html;base64," + base64.b64encode(b"<p>caf&eacute;").decode(), "café"),
        ("data:application/json,%7B%7D", "{}"),
        ("data:;base64," + base64.b64encode("café".encode()).decode(), "café"),
        ('data:text/plain;charset="latin-1",caf%E9', "café"),
        ("data:text/plain;BASE64," + base64.b64encode(b"text").decode(), "text"),
        ("data:application/octet-stream;base64," + base64.b64encode(b"text").decode(), "text"),
        ("data:application/octet-stream;base64," + as_data_url(make_pdf("A")).split(",")[1], "A"),
    ],
)
async def test_a_data_url_says_what_it_holds(url: str, text: str) -> None:
    assert await read_document(url) == text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:application/pdf;base64,@@@@", "data URL is broken"),
        ("data:application/pdf;base64,JVBERi0", "data URL is broken"),
        ("data:application/pdf,hello", "PDF can't be read"),
        ("data:image/png;base64,iVBORw0KGgo=", "of type image/png can't be read"),
    ],
)
async def test_a_data_url_that_cannot_be_read_says_why(url: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        await read_document(url)


@pytest.mark.parametrize(
    ("content", "content_type", "text"),
    [
        (b"<html><title>T</title><p>caf\xc3\xa9", "text/html; charset=utf-8", "T\n\ncafé"),
        (b'<meta charset="windows-1252"><p>caf\xe9', "text/html", "café"),
        (b"<!doctype html><p>no type", "", "no type"),
        (b"caf\xe9 <p>", "text/plain; charset=latin-1", "café <p>"),
        ("café".encode("utf-16"), "text/plain", "café"),
        (b"\xef\xbb\xbfplain", "text/plain", "plain"),
        (b"odd", "text/plain; charset=punycode", "odd"),
        (b"odd", "text/plain; charset=utf-99", "odd"),
        (make_pdf("Stop means stop."), "application/pdf", "Stop means stop."),
        (make_pdf("Stop means stop."), "application/octet-stream", "Stop means stop."),
    ],
)
async def test_an_address_is_fetched_and_read_as_what_it_is(
    web: Web, content: bytes, content_type: str, text: str
) -> None:
    requests = web(answer(content, content_type))

    assert await read_document(" https://example.org/paper?v=1 ") == text
    assert [request.headers["Host"] for request in requests] == ["example.org"]


async def test_a_compressed_answer_is_unpacked(web: Web) -> None:
    web(answer(gzip.compress(b"packed"), "text/plain", **{"Content-Encoding": "gzip"}))

    assert await read_document("http://example.org") == "packed"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:8000/admin/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://2130706433/",
    ],
)
async def test_an_address_in_a_private_network_is_refused(url: str) -> None:
    """By the real transport and the real resolver, as nothing leaves the machine."""
    with pytest.raises(AddressRefused):
        await read_document(url)


async def test_a_name_that_leads_to_a_private_network_is_refused(web: Web) -> None:
    requests = web(answer(b"secret", "text/plain"), names={"intranet.example": "10.0.0.1"})

    with pytest.raises(AddressRefused):
        await read_document("http://intranet.example/")
    assert requests == []


@pytest.mark.parametrize("target", ["http://127.0.0.1/secret", "http://intranet.example/secret"])
async def test_a_redirect_to_a_private_network_is_refused(web: Web, target: str) -> None:
    requests = web(
        lambda request: httpx.Response(302, headers={"Location": target}),
        names={"intranet.example": "10.0.0.1", "127.0.0.1": "127.0.0.1"},
    )

    with pytest.raises(AddressRefused):
        await read_document("http://example.org/")
    assert len(requests) == 1


async def test_a_redirect_to_a_public_address_is_followed(web: Web) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/old":
            return httpx.Response(301, headers={"Location": "https://example.net/new"})
        return httpx.Response(200, text="moved")

    web(handle)

    assert await read_document("http://example.org/old") == "moved"


async def test_redirects_without_end_are_given_up(web: Web) -> None:
    requests = web(lambda request: httpx.Response(302, headers={"Location": "/again"}))

    with pytest.raises(DocumentError, match=r"example\.org can't be read"):
        await read_document("http://example.org/")
    assert len(requests) == documents.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (lambda request: httpx.Response(404), "answered 404"),
        (answer(b"\x89PNG", "image/png"), "of type image/png"),
        (lambda request: httpx.Response(302, headers={"Location": "ftp://x/"}), "not ftp"),
        (answer(b"no gzip", "text/plain", **{"Content-Encoding": "gzip"}), "can't be read"),
    ],
    ids=["status", "type", "scheme", "encoding"],
)
async def test_an_answer_that_cannot_be_read_says_why(
    web: Web, handler: Handler, message: str
) -> None:
    web(handler)

    with pytest.raises((DocumentError, AddressRefused), match=message):
        await read_document("http://example.org/")


async def test_a_server_that_cannot_be_reached_is_a_document_error(web: Web) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    web(handle)

    with pytest.raises(DocumentError, match="no route"):
        await read_document("http://example.org/")


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "HTTPS://", "http:///path", "http://example.org:99999/", "http://a:b@c:d/"),
        *("https://[::1/", "http://[v1.x]/", "http://exam\0ple.org/", "http://example..org/"),
        *(f"http://{'x' * 70}.org/", "http://example.org/" + "x" * 70_000, "http://xn--a/"),
        *("http://\u2488.example/", "file://", "http://%31%32%37/", "http://a\ud800b/"),
    ],
)
async def test_an_address_that_can_not_be_one_is_an_error(url: str) -> None:
    with pytest.raises((DocumentError, AddressRefused), match=r"address|visited"):
        await read_document(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/", "gopher://x/"])
async def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused, match=f"only http and https .* not {url.split(':')[0]}:"):
        await read_document(url)


@pytest.mark.parametrize("text", ["http://exa mple.org:x/", "see http://example.org", "c://"])
async def test_what_only_looks_like_an_address_is_text(text: str) -> None:
    assert await read_document(text) == text


async def test_too_large_an_answer_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1_000)
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b"x" * 100

    web(lambda request: httpx.Response(200, content=body()))

    with pytest.raises(DocumentError, match="more than 1,000 bytes"):
        await read_document("http://example.org/")
    assert read == 1_100


async def test_a_decompression_bomb_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1_000_000)
    bomb = gzip.compress(b"0" * 50_000_000)
    web(answer(bomb, "text/plain", **{"Content-Encoding": "gzip"}))

    with pytest.raises(DocumentError, match="more than 1,000,000 bytes"):
        await read_document("http://example.org/")


async def test_too_large_a_data_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)

    with pytest.raises(DocumentError, match="more than 10 bytes"):
        await read_document("data:text/plain,01234567890")


async def test_a_server_that_never_ends_is_given_up(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "FETCH_SECONDS", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    web(lambda request: httpx.Response(200, content=body()))

    with pytest.raises(DocumentError, match=r"more than 0\.05 s"):
        await read_document("http://example.org/")


@pytest.mark.parametrize("text", ["\ufffd" * 100, "\x01\x02\x03\x04" * 9, "a\ufffd" * 50])
async def test_what_is_no_text_is_refused_although_it_came_as_text(text: str) -> None:
    with pytest.raises(DocumentError, match="it is no text"):
        await read_document(text)


async def test_large_documents_are_read_in_a_process_of_their_own() -> None:
    """As small ones: by their bytes, with a refusal that says what they are."""
    page = "data:text/html," + "<p>caf%C3%A9" * 20_000
    assert (await read_document(page)).startswith("café\n\ncafé")
    with pytest.raises(DocumentError, match="it is a gzip archive"):
        await read_document("data:text/plain,%1F%8B%08" + "x" * 100_000)


async def test_reading_is_stopped_in_its_process() -> None:
    token = CancelToken()
    token.request()
    bind_token(token)

    with pytest.raises(AgentStopped):
        await read_document(as_data_url(make_pdf("Stop means stop.")))
