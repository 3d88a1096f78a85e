"""The text of a PDF, by pypdf, with an eye on files that were made to do harm."""

from __future__ import annotations

import io
import logging
import time

import pypdf
from pypdf.errors import FileNotDecryptedError

from agents import check_should_stop
from agents.exceptions import DocumentError

__all__ = ["pdf_to_text"]

MAX_SECONDS = 120.0
MAX_CHARACTERS = 20_000_000

#: A small file can unpack to gigabytes. pypdf's own limits, brought down to what text needs.
_LIMITS = pypdf.Configuration(
    zlib_maximum_output_length=20_000_000,
    lzw_maximum_output_length=20_000_000,
    run_length_maximum_output_length=20_000_000,
    brotli_maximum_output_length=20_000_000,
    array_based_stream_maximum_output_length=20_000_000,
    stream_decoding_work_maximum_length=100_000_000,
    page_tree_maximum_entries=10_000,
    xform_maximum_invocations_per_extraction=1_000,
)

# pypdf warns of each oddity of a file, by the thousand. What matters, DocumentError says once.
logging.getLogger("pypdf").setLevel(logging.ERROR)


def pdf_to_text(content: bytes) -> str:
    """Return the text of all pages, a blank line between two.

    This computes for seconds without a call that could be refused, so it looks for a stop itself:
    at each page, and at each operation within one. Meant for ``asyncio.to_thread``, which takes the
    run's token along.

    Raises:
        DocumentError: broken, encrypted, without text (a scan), or too much work.
        AgentStopped: a stop was asked for.
    """
    try:
        with pypdf.apply_configuration(_LIMITS):
            text = "\n\n".join(_pages(content))
    except DocumentError:
        raise
    except FileNotDecryptedError as error:
        raise DocumentError("the PDF is encrypted; a copy without a password is needed") from error
    except pypdf.errors.DependencyError as error:
        raise DocumentError("the PDF is encrypted in a way that can't be read here") from error
    except Exception as error:  # pypdf: "broken PDF files might cause other Exceptions"
        raise DocumentError(f"the PDF can't be read: {error}") from error
    if not text.strip():
        raise DocumentError("the PDF has no text; if it is a scan, it needs text recognition first")
    return text


def _pages(content: bytes) -> list[str]:
    deadline = time.monotonic() + MAX_SECONDS

    def look_up(*_: object) -> None:
        check_should_stop()
        if time.monotonic() > deadline:
            raise DocumentError(f"the PDF takes more than {MAX_SECONDS:g} s to read")

    pages: list[str] = []
    room = MAX_CHARACTERS
    for page in pypdf.PdfReader(io.BytesIO(content)).pages:
        look_up()
        pages.append(page.extract_text(visitor_operand_before=look_up).strip())
        room -= len(pages[-1])
        if room < 0:
            raise DocumentError(f"the PDF has more than {MAX_CHARACTERS:,} characters of text")
    return pages
