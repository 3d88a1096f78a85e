"""The text of a PDF, by pypdf, within limits for files that were made to do harm."""

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

#: A small file can unpack to gigabytes. These limits are lower than pypdf's own.
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

# pypdf logs thousands of warnings for one odd file. DocumentError says once what matters.
logging.getLogger("pypdf").setLevel(logging.ERROR)


def pdf_to_text(content: bytes) -> str:
    """Return the text of all pages, with a blank line between two.

    It computes for seconds without a guarded call, so it checks for a stop itself: at each page,
    and at each operation in it. For ``asyncio.to_thread``, which keeps the run's token.

    Raises:
        DocumentError: broken, encrypted, without text (a scan), or too much work.
        AgentStopped: a stop was requested.
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

    def check(*_: object) -> None:
        check_should_stop()
        if time.monotonic() > deadline:
            raise DocumentError(f"the PDF takes more than {MAX_SECONDS:g} s to read")

    pages: list[str] = []
    room = MAX_CHARACTERS
    for page in pypdf.PdfReader(io.BytesIO(content)).pages:
        check()
        pages.append(page.extract_text(visitor_operand_before=check).strip())
        room -= len(pages[-1])
        if room < 0:
            raise DocumentError(f"the PDF has more than {MAX_CHARACTERS:,} characters of text")
    return pages
