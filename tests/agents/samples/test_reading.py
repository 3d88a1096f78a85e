"""Bytes are read as what they are: decoded as by a browser, or refused by name."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.samples.reading import read
from tests.support.pdfs import make_pdf

SENTENCE = "Stop means stop, é. "
RUSSIAN = "Остановка означает остановку."
JAPANESE = "停止とは停止を意味します。"
PAGE = "<!doctype html><html><head>{}</head><body><p>{}</p></body></html>"


def zip_with(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x" * 100)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "content_type", "text"),
    [
        # the label, by the names that browsers know
        (b"\x93caf\xe9\x94 \x80", "text/plain; charset=latin-1", "“café” €"),
        (b"\x93caf\xe9\x94", 'text/html; charset="ISO-8859-1"', "“café”"),
        ("镕".encode("gbk"), "text/plain; charset=gb2312", "镕"),
        ("①".encode("cp932"), "text/plain;charset='SHIFT_JIS'", "①"),
        (RUSSIAN.encode("cp1251"), "TEXT/PLAIN; CHARSET=Windows-1251", RUSSIAN),
        ("é".encode(), "text/plain; charset=utf-8; charset=latin-1", "é"),
        ("é".encode(), "text/html; charset=latin-1, text/plain; charset=utf-8", "é"),
        ("é".encode(), "text/plain; charset=utf-8, text/plain", "é"),
        ("é".encode(), "text/plain; charset=utf-99", "é"),
        ("é".encode(), "text/plain; charset=punycode", "é"),
        ("é".encode(), "text/plain; charset=", "é"),
        ("é".encode(), ";charset=utf-8", "é"),
        ("é".encode(), "nonsense", "é"),
        # a byte order mark goes first
        *(
            ("é".encode(codec), "text/plain; charset=koi8-r", "é")
            for codec in ("utf-8-sig", "utf-16", "utf-32")
        ),
        (b"\xfe\xff" + "é".encode("utf-16-be"), "text/plain; charset=utf-8", "é"),
        (b"\x00\x00\xfe\xff" + "é".encode("utf-32-be"), "", "é"),
        # without one, zeros tell
        *(
            (SENTENCE.encode(codec), label, SENTENCE)
            for codec in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
            for label in ("", "text/plain; charset=utf-8")
        ),
        ("日本".encode("utf-16-le"), "text/plain; charset=utf-16", "日本"),
        ("日本".encode("utf-16-be"), "text/plain; charset=utf-16be", "日本"),
        (b"plain after all", "text/plain; charset=utf-16", "plain after all"),
        # Zeros between words are no UTF-16.
        (b"hello\0world, and more words", "text/plain", "hello\0world, and more words"),
        (b"a\0b hello", "text/plain; charset=utf-8", "a\0b hello"),
        # what a page or an XML document declares
        (PAGE.format("<meta charset=windows-1251>", RUSSIAN).encode("cp1251"), "", RUSSIAN),
        (
            PAGE.format(
                "<META content='text/html; charset=koi8-r' http-equiv=Content-Type>", RUSSIAN
            ).encode("koi8-r"),
            "text/html",
            RUSSIAN,
        ),
        (
            PAGE.format("<!-- <meta charset=koi8-r> --><meta charset=cp1251>", RUSSIAN).encode(
                "cp1251"
            ),
            "text/html",
            RUSSIAN,
        ),
        (PAGE.format("<meta charset=utf-16>", "é").encode(), "text/html", "é"),
        (PAGE.format("<meta charset=koi8-r>", "é").encode(), "text/html; charset=utf-8", "é"),
        (b'<?xml version="1.0" encoding="windows-1252"?><a>\x80</a>', "text/xml", None),
        (f'<?xml version="1.0" encoding="EUC-JP"?><a>{JAPANESE}</a>'.encode("euc_jp"), "", None),
        (f"<?xml version='1.0' encoding='shift_jis'?>\n{PAGE.format('', JAPANESE)}".encode("cp932"),
         "application/xhtml+xml", JAPANESE),
        # nothing says it
        ("é ".encode() + JAPANESE.encode(), "", "é " + JAPANESE),
        (b"caf\xe9 cr\xe8me, 5 \x80", "", "café crème, 5 €"),
        (RUSSIAN.encode() + b"\xd0", "", None),
        # the bytes count for more than the label
        (b"plain", "application/octet-stream", "plain"),
        ("é".encode(), "application/x-yaml", "é"),
        ("const a = 1; // é".encode(), "video/mp2t", "const a = 1; // é"),
        (make_pdf("Stop."), "text/html", "Stop."),
        (make_pdf("Stop."), "text/plain", "Stop."),
        (b"garbage" + make_pdf("Stop."), "application/octet-stream", "Stop."),
        (b"%PDF- is how a PDF begins"[1:], "text/plain", "PDF- is how a PDF begins"),
        (b"A PDF begins with %PDF-1.4", "text/plain", "A PDF begins with %PDF-1.4"),
        (PAGE.format("", "é").encode(), "text/plain", "é"),
        (PAGE.format("", "é").encode(), "application/octet-stream", "é"),
        (PAGE.format("", "Sign in").encode(), "application/pdf", "Sign in"),
        (b"<p>a page</p>", "", "a page"),
        (b"<p align=center>Markdown</p>", "text/markdown", "<p align=center>Markdown</p>"),
        (b"<pre is no p", "", "<pre is no p"),
        (b"one \0 is a slip, in a text that has some length", "text/plain", None),
        (b"\x1b[31mred\x1b[0m and b\x08bold", "text/plain", "\x1b[31mred\x1b[0m and b\x08bold"),
        (b"BM is how an image begins, II* and MZ as well", "", None),
    ],
)  # fmt: skip
def test_a_document_is_read_as_what_it_is(
    content: bytes, content_type: str, text: str | None
) -> None:
    found = read(content, content_type)

    assert found.count("\ufffd") == (content[-1:] == b"\xd0")
    if text is not None:
        assert found == text


@pytest.mark.parametrize(
    ("content", "content_type", "what"),
    [
        (gzip.compress(b"text" * 100), "text/plain", "a gzip archive"),
        (gzip.compress(b"text"), "application/octet-stream", "a gzip archive"),
        (zip_with("word/document.xml"), "text/plain", "a Word document"),
        (zip_with("[Content_Types].xml"), "", "an Office document"),
        (zip_with("a.txt"), "text/html", "a zip archive"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "text/plain", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "", "a JPEG image"),
        (b"GIF89a\x01\0\x01\0", "text/html; charset=utf-8", "a GIF image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "application/octet-stream", "a WebP image"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 9, "text/plain", "an executable"),
        (b"MZ\x90\0\x03\0\0\0", "application/octet-stream", "an executable"),
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "", "an executable"),
        (b"\0\0\0\x20ftypisom", "text/plain", "an MP4 film"),
        (b"ID3\x03\0\0\0", "text/plain", "an MP3 sound"),
        (b"SQLite format 3\0", "text/plain", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword", "an old Office document"),
        (b"\x89PNG", "image/png", "of type image/png can't be read"),
        (b"\x80\x81 cut off", "image/jpeg", "of type image/jpeg can't be read"),
        (random.Random(1).randbytes(2_000), "text/plain", "it is no text"),
        (random.Random(2).randbytes(2_000), "application/octet-stream", "it is no text"),
        (random.Random(3).randbytes(2_000), "text/plain; charset=utf-8", "it is no text"),
        (random.Random(4).randbytes(2_000), "text/plain; charset=shift_jis", "it is no text"),
        (b"\0" * 500, "text/plain", "it is no text"),
        (b"\x01\x02\x03 and so on", "text/plain", "it is no text"),
        (RUSSIAN.encode("cp1251"), "text/plain; charset=utf-8", "it is no text"),
        (RUSSIAN.encode("cp1251"), "text/plain", "in which encoding"),
        (JAPANESE.encode("cp932"), "", "in which encoding"),
        (b"+ADw-script+AD4-", "text/plain; charset=UTF-7", "in UTF-7, which can't be read"),
        (b"~{<:Ky2;VW~}", "text/plain; charset=hz-gb-2312", "which can't be read"),
        (b"no PDF", "application/pdf", "no text|PDF can't be read"),
    ],
)
def test_what_is_no_text_is_refused_by_name(content: bytes, content_type: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(content, content_type)


@given(st.binary(max_size=200), st.text(max_size=60))
def test_any_bytes_under_any_label_are_text_or_a_refusal(content: bytes, label: str) -> None:
    with suppress(ValueError):
        assert isinstance(read(content, label), str)
