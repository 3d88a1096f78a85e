"""The labels of encodings mean what they mean to browsers."""

from __future__ import annotations

import pytest

from agents.values.encodings import codec_of

EURO = [("latin-1", b"\x80"), ("iso-8859-1", b"\x80"), ("us-ascii", b"\x80"), ("cp1252", b"\x80")]


@pytest.mark.parametrize(
    ("label", "content", "text"),
    [
        *((label, content, "€") for label, content in EURO),
        (' "UTF-8"', "é".encode(), "é"),
        ("utf8", "é".encode(), "é"),
        ("gb2312", "镕".encode("gbk"), "镕"),  # not in GB 2312
        ("GBK", "𠀀".encode("gb18030"), "𠀀"),
        ("shift_jis", "①㈱".encode("cp932"), "①㈱"),  # of Windows
        ("x-sjis", "①".encode("cp932"), "①"),
        ("euc-kr", "똠".encode("cp949"), "똠"),  # not in KS X 1001
        ("ks_c_5601-1987", "가".encode("cp949"), "가"),
        ("big5", "嗰".encode("big5hkscs"), "嗰"),  # of Hong Kong
        ("iso-8859-9", "ğ".encode("cp1254"), "ğ"),
        ("tis-620", "ก".encode("cp874"), "ก"),
        ("iso-8859-8-i", "א".encode("iso8859-8"), "א"),
        ("macintosh", "é".encode("mac_roman"), "é"),
        ("koi8-u", "ї".encode("koi8-u"), "ї"),
        ("cp437", "é".encode("cp437"), "é"),
        ("utf-16", "é".encode("utf-16-le"), "é"),
        ("utf-16be", "é".encode("utf-16-be"), "é"),
        ("utf-32be", "é".encode("utf-32-be"), "é"),
    ],
)
def test_a_label_is_read_as_a_browser_reads_it(label: str, content: bytes, text: str) -> None:
    codec = codec_of(label)

    assert codec is not None
    assert content.decode(codec) == text


@pytest.mark.parametrize(
    "label",
    [
        *("", "utf-99", "utf-7", "UTF7", "punycode", "idna", "zip", "zlib", "bz2", "hex", "base64"),
        *("rot13", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "x-user-defined"),
        *("hz-gb-2312", "iso-2022-kr", "replacement", "é", "a\0b", "../../etc", "x" * 10_000),
    ],
)
def test_what_is_no_encoding_of_text_is_none(label: str) -> None:
    assert codec_of(label) is None
