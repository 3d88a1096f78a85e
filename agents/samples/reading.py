"""The text of a document, from its bytes and its label.

The bytes count for more than the label: what is labelled as text may be an image. Text is decoded
as a browser does it (https://encoding.spec.whatwg.org/), and what is no text is refused, since a
model would be paid for reading it.

It runs in a process of its own, so it imports nothing that takes long, and no part of the runtime.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agents.values.encodings import REFUSED_LABELS, codec_of

from .file_types import is_html, is_pdf, name_of_binary
from .html_text import html_to_text

__all__ = ["check_text", "read", "takes_long"]

_HTML_TYPES = ("text/html", "application/xhtml+xml")
_OPAQUE_TYPES = ("", "application/octet-stream", "binary/octet-stream", "application/unknown")
_KINDS_OF_OTHERS = ("image/", "audio/", "video/", "font/", "model/")
_MEDIA_TYPE = re.compile(r"\s*([\w.+-]+/[\w.+-]+)?\s*(;.*|$)")
_CHARSET = re.compile(r";\s*charset\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s;\"']+))", re.IGNORECASE)

_HEAD_BYTES = 1024  # in which a page declares its encoding
_COMMENT = re.compile(rb"<!--.*?(-->|$)", re.DOTALL)
_META = re.compile(rb"<meta\s[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")

_BOMS = [
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
]
_WIDE = ("utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")

# Control characters that no text has. Terminals' logs have escapes and backspaces.
_BAD = re.compile("[\ufffd\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")
_BAD_COUNT, _BAD_SHARE = 3, 0.05
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_FOREIGN_COUNT, _FOREIGN_SHARE = 8, 0.3


@dataclass(frozen=True, slots=True)
class _Label:
    """A Content-Type: its media type in lower case, and its charset."""

    media_type: str
    charset: str

    @classmethod
    def of(cls, content_type: str) -> _Label:
        """Read a Content-Type, or several of one answer: the last one that makes sense counts.

        https://fetch.spec.whatwg.org/#concept-header-extract-mime-type
        """
        media_type = charset = ""
        for value in content_type.split(","):
            match = _MEDIA_TYPE.fullmatch(value)
            if match is None:
                continue
            found = _CHARSET.search(match[2])
            given = "".join(group or "" for group in found.groups()) if found else ""
            is_another = match[1] is not None and match[1].lower() != media_type
            charset = given if given or is_another else charset
            media_type = (match[1] or media_type).lower()
        return cls(media_type, charset)

    @property
    def is_text(self) -> bool:
        return self.media_type.startswith("text/") and self.media_type not in _HTML_TYPES

    @property
    def name(self) -> str:
        return "" if self.media_type in _OPAQUE_TYPES else f" of type {self.media_type}"


def takes_long(content: bytes, content_type: str) -> bool:
    """Return whether reading it may take long, however small it is."""
    return _is_pdf(content, _Label.of(content_type))


def read(content: bytes, content_type: str) -> str:
    """Return the text of a document.

    Raises:
        ValueError: it is no text, or can't be read; the message says what it is.
    """
    label = _Label.of(content_type)
    if _is_pdf(content, label):
        from .pdf_text import pdf_to_text

        text = pdf_to_text(content)
        check_text(text, "the text of the PDF can't be read: its fonts don't say what they show")
        return text
    bom, codec = next(((b, c) for b, c in _BOMS if content.startswith(b)), (b"", ""))
    _refuse_binary(content, label, is_marked_text=bool(bom))
    head = _head(content, codec)
    is_page = label.media_type in _HTML_TYPES or is_html(head, is_labelled_text=label.is_text)
    is_markup = is_page or label.media_type.endswith("xml") or head.lstrip().startswith(b"<?xml")
    codec = codec or _codec(content, label, head if is_markup else b"")
    text = content[len(bom) :].decode(codec or "cp1252", "replace")
    check_text(text, f"the document{label.name} can't be read: it is no text")
    if not codec:
        _check_western(content)
    return html_to_text(text) if is_page else text


def check_text(text: str, problem: str) -> None:
    """Refuse a text with many characters that no text has.

    Raises:
        ValueError: with ``problem`` as its message.
    """
    bad = sum(1 for _ in _BAD.finditer(text))
    if bad >= _BAD_COUNT and bad > _BAD_SHARE * len(text):
        raise ValueError(problem)


def _is_pdf(content: bytes, label: _Label) -> bool:
    if label.media_type == "application/pdf":  # or a page that says why there is none
        return not is_html(_head(content, ""), is_labelled_text=False)
    return is_pdf(content, is_labelled_text=label.is_text or label.media_type in _HTML_TYPES)


def _refuse_binary(content: bytes, label: _Label, *, is_marked_text: bool) -> None:
    name = "" if is_marked_text else name_of_binary(content)
    if name:
        raise ValueError(f"a document{label.name} can't be read: it is {name}")
    if label.media_type.startswith(_KINDS_OF_OTHERS) and not is_marked_text:
        # A program in TypeScript is labelled video/mp2t; a picture that is cut off has no name.
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"a document{label.name} can't be read") from error


def _head(content: bytes, codec: str) -> bytes:
    """Return the beginning, in ASCII where it is ASCII."""
    codec = codec if codec in _WIDE else _wide_codec(content)
    if not codec:
        return content[:_HEAD_BYTES]
    text = content[: 4 * _HEAD_BYTES].decode(codec, "replace").lstrip("\ufeff")
    return text.encode("ascii", "replace")[:_HEAD_BYTES]


def _codec(content: bytes, label: _Label, markup: bytes) -> str:
    """Return the codec of a text without a byte order mark, "" if nothing says which."""
    if wide := _wide_codec(content):
        return wide
    if label.charset.lower() in REFUSED_LABELS:
        raise ValueError(f"the document is in {label.charset}, which can't be read")
    labelled = codec_of(label.charset)
    if labelled and not (labelled in _WIDE and content.isascii()):
        return labelled
    if declared := _declared(markup):
        return declared
    return "utf-8" if _is_nearly_utf_8(content) else ""


def _is_nearly_utf_8(content: bytes) -> bool:
    """Return whether it is UTF-8, a few broken places apart; other encodings have many of those."""
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return not broken or broken * 10 < sum(1 for _ in _NOT_ASCII.finditer(text)) - broken


def _declared(markup: bytes) -> str | None:
    """Return the codec that a page or an XML document declares; bytes declare it, so it is one."""
    found = _XML.match(markup) or _META.search(_COMMENT.sub(b"", markup))
    if found is None:
        return None
    codec = codec_of(found[1].decode("ascii", "replace"))
    return "utf-8" if codec in _WIDE else codec


def _wide_codec(content: bytes) -> str:
    """Return UTF-16 or UTF-32 if zeros are where those have them; "" if not."""
    head = content[:_HEAD_BYTES]
    if b"\0" not in head:
        return ""
    zeros = [head[place::4].count(0) / max(1, len(head[place::4])) for place in range(4)]
    if len(content) % 4 == 0 and min(zeros[1:]) > 0.4 and zeros[2] > 0.9 and zeros[0] < 0.1:
        return "utf-32-le"
    if len(content) % 4 == 0 and min(zeros[:3]) > 0.4 and zeros[0] > 0.9 and zeros[3] < 0.1:
        return "utf-32-be"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    # Half of the bytes of an English text in UTF-16 are zeros. With fewer, they only part words.
    least = 0.9 if head.isascii() else 0.2
    if odd > least and even < 0.02:
        return "utf-16-le"
    if even > least and odd < 0.02:
        return "utf-16-be"
    return ""


def _check_western(content: bytes) -> None:
    """Refuse text in another script that doesn't say in which of its encodings it is."""
    foreign = sum(1 for byte in content[:100_000] if byte >= 0x80)
    if foreign > _FOREIGN_COUNT and foreign > _FOREIGN_SHARE * min(len(content), 100_000):
        raise ValueError("the document does not say in which encoding it is, and it is not UTF-8")
