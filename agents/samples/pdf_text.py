"""The text of a PDF, by pypdf, within limits for files that were made to do harm.

pypdf takes minutes for some files of 5 kB, so this is for a process with limits: see
``call_confined``. It imports no part of the runtime.
"""

from __future__ import annotations

import io
import logging

import pypdf
from pypdf.errors import FileNotDecryptedError

__all__ = ["pdf_to_text"]

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

# pypdf logs thousands of warnings for one odd file. An error says once what matters.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def pdf_to_text(content: bytes) -> str:
    """Return the text of all pages, with a blank line between two.

    A PDF that is encrypted and opens without a password is read.

    Raises:
        ValueError: broken, encrypted, without text (a scan), or too much work.
    """
    try:
        with pypdf.apply_configuration(_LIMITS):
            text = "\n\n".join(_pages(content))
    except _TooMuch as error:
        raise ValueError(str(error)) from error
    except FileNotDecryptedError as error:
        raise ValueError("the PDF is encrypted; a copy without a password is needed") from error
    except pypdf.errors.DependencyError as error:
        raise ValueError("the PDF is encrypted in a way that can't be read here") from error
    except MemoryError:
        raise
    except Exception as error:  # pypdf: "broken PDF files might cause other Exceptions"
        raise ValueError(f"the PDF can't be read: {error}") from error
    if not text.strip():
        raise ValueError("the PDF has no text; if it is a scan, it needs text recognition first")
    return text


class _TooMuch(Exception):
    pass


def _pages(content: bytes) -> list[str]:
    pages: list[str] = []
    room = MAX_CHARACTERS
    for page in pypdf.PdfReader(io.BytesIO(content)).pages:
        pages.append(page.extract_text().strip())
        room -= len(pages[-1])
        if room < 0:
            raise _TooMuch(f"the PDF has more than {MAX_CHARACTERS:,} characters of text")
    return pages
