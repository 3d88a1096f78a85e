"""PDFs are read page by page, and what can't be read says why."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.samples import pdf_text
from agents.samples.pdf_text import pdf_to_text
from tests.support.pdfs import encrypted_pdf, make_pdf, pdf_bomb


def test_pages_are_read_in_order() -> None:
    assert pdf_to_text(make_pdf("Stop means stop.", "Nothing after it.")) == (
        "Stop means stop.\n\nNothing after it."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read"),
        (b"%PDF-1.4\nand nothing else", "can't be read"),
        (make_pdf("Stop")[:200], "can't be read"),
        (make_pdf("", ""), "has no text"),
        (encrypted_pdf("Stop", "secret"), "is encrypted"),
        (encrypted_pdf("Stop", "secret", "AES-256"), "is encrypted"),
        (pdf_bomb(30_000_000), "can't be read"),
    ],
    ids=["empty", "header only", "cut off", "without text", "RC4", "AES", "bomb"],
)
def test_what_cannot_be_read_says_why(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pdf_to_text(content)


@pytest.mark.parametrize(
    "algorithm", ["RC4-40", "RC4-128", "AES-128", "AES-256-R5", "AES-256"], ids=str
)
def test_a_pdf_without_a_password_is_read_although_it_is_encrypted(algorithm: str) -> None:
    pdf = encrypted_pdf("Stop means stop.", "", algorithm)

    assert pdf_to_text(pdf) == "Stop means stop."


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_damaged_pdf_is_read_or_refused_but_never_anything_else(data: st.DataObject) -> None:
    pdf = bytearray(make_pdf("Stop means stop.", "Nothing after it."))
    for _ in range(data.draw(st.integers(min_value=1, max_value=8))):
        pdf[data.draw(st.integers(min_value=0, max_value=len(pdf) - 1))] = data.draw(
            st.integers(min_value=0, max_value=255)
        )

    with suppress(ValueError):
        pdf_to_text(bytes(pdf))


def test_too_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_text, "MAX_CHARACTERS", 20)

    with pytest.raises(ValueError, match="more than 20 characters"):
        pdf_to_text(make_pdf("Stop means stop.", "Nothing after it."))
