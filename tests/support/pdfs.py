"""Small PDFs for the tests, written by hand so that their content can be read here."""

from __future__ import annotations

import base64
import io
import re
import zlib

import pypdf

__all__ = ["as_data_url", "encrypted_pdf", "make_pdf", "pdf_bomb", "slow_pdf"]


def make_pdf(*pages: str) -> bytes:
    """Return a PDF with one line of text per page, in Helvetica; "" makes a page without text."""
    return _assemble([_shown(page) for page in pages])


def pdf_bomb(size: int) -> bytes:
    """Return a small PDF whose one page unpacks to ``size`` bytes."""
    return _assemble([b" " * size])


def slow_pdf(pages: int = 20) -> bytes:
    """Return a PDF of a few kB that takes pypdf minutes: its pages share one long stream."""
    stream = b"BT /F1 12 Tf (slow) Tj ET\n" * 100_000
    pdf = _assemble([stream, *[b""] * (pages - 1)])
    return re.sub(rb"/Contents \d+ 0 R", b"/Contents 5 0 R", pdf)


def encrypted_pdf(page: str, password: str, algorithm: str = "RC4-128") -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf(page)))
    writer.encrypt(password, owner_password="of the owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def as_data_url(pdf: bytes) -> str:
    return "data:application/pdf;base64," + base64.b64encode(pdf).decode()


def _shown(text: str) -> bytes:
    return f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1") if text else b""


def _assemble(streams: list[bytes]) -> bytes:
    count = len(streams)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, stream in enumerate(streams):
        packed = zlib.compress(stream, 9)
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        bodies.append(
            f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode()
            + packed
            + b"\nendstream"
        )
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    xref = len(out)
    out += f"xref\n0 {len(bodies) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010} 00000 n \n".encode() for offset in offsets)
    out += f"trailer << /Size {len(bodies) + 1} /Root 1 0 R >>\n".encode()
    out += f"startxref\n{xref}\n%%EOF\n".encode()
    return bytes(out)
