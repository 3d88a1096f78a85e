"""What a file is, by its first bytes."""

from __future__ import annotations

import re

__all__ = ["is_html", "is_pdf", "name_of_binary"]

_STARTS = [
    (rb"\x1f\x8b\x08", "a gzip archive"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 archive"),
    (rb"\xfd7zXZ\x00", "an xz archive"),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a rar archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"!<arch>\n", "a package of software"),
    (rb"\xed\xab\xee\xdb", "a package of software"),
    (rb"PK\x03\x04.{26,200}word/", "a Word document"),
    (rb"PK\x03\x04.{26,200}xl/", "an Excel document"),
    (rb"PK\x03\x04.{26,200}ppt/", "a PowerPoint document"),
    (rb"PK\x03\x04.{26}\[Content_Types\]\.xml", "an Office document"),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", "an EPUB book"),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument document"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"RIFF.{4}WEBP", "a WebP image"),
    (rb"RIFF.{4}WAVE", "a WAV sound"),
    (rb"RIFF.{4}AVI ", "an AVI film"),
    (rb"BM.{4}\x00\x00\x00\x00", "a BMP image"),
    (rb"II\x2a\x00|MM\x00\x2a", "a TIFF image"),
    (rb"\x00\x00[\x01\x02]\x00", "an icon"),
    (rb".{4}ftyp(avif|heic|heix|mif1)", "an image"),
    (rb".{4}ftyp", "an MP4 film"),
    (rb"\x1a\x45\xdf\xa3", "a Matroska film"),
    (rb"\x00\x00\x01[\xb3\xba]", "an MPEG film"),
    (rb"FLV\x01", "a Flash film"),
    (rb"ID3[\x02-\x04]|\xff[\xf2\xf3\xfa\xfb]", "an MP3 sound"),
    (rb"OggS\x00", "an Ogg sound"),
    (rb"fLaC", "a FLAC sound"),
    (rb"MThd\x00", "a MIDI file"),
    (rb"\x7fELF", "an executable"),
    (rb"MZ.{0,60}\x00", "an executable"),
    (rb"(\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe)", "an executable"),
    (rb"\xca\xfe\xba\xbe", "an executable"),
    (rb"\x00asm", "an executable"),
    (rb"SQLite format 3\x00", "an SQLite database"),
    (rb"wOF[F2]|OTTO\x00|\x00\x01\x00\x00\x00", "a font"),
]
_BINARIES = [(re.compile(start, re.DOTALL), name) for start, name in _STARTS]

_PDF = re.compile(rb"[\s\x00\xef\xbb\xbf]*%PDF-")
_TEXT_BEFORE = rb"(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]{0,200}\?>|<!--(?:[^-]|-(?!->)){0,900}-->)*"
_HTML = re.compile(_TEXT_BEFORE + rb"<(!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE)
# https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type
_TAGS = rb"!doctype\s+html|html|head|body|script|iframe|h1|div|font|table|a|style|title|b|br|p"
_MARKUP = re.compile(_TEXT_BEFORE + rb"<(" + _TAGS + rb")[\s>]", re.IGNORECASE)


def name_of_binary(content: bytes) -> str:
    """Return what a file is that is neither text nor a PDF; "" if it may be text."""
    for start, name in _BINARIES:
        if start.match(content[:512]):
            return name
    return ""


def is_pdf(content: bytes, *, is_labelled_text: bool) -> bool:
    """Return whether it is a PDF. Garbage before the header is common, and in a text it is none."""
    if is_labelled_text:
        return _PDF.match(content[:1024]) is not None
    return b"%PDF-" in content[:1024]


def is_html(content: bytes, *, is_labelled_text: bool) -> bool:
    """Return whether it is a page. What is labelled as plain text must say so more clearly."""
    return (_HTML if is_labelled_text else _MARKUP).match(content[:1024]) is not None
