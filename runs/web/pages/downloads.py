"""A run's result, input and log as files."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_safe

from runs import events
from runs.db.lending import release_connection
from runs.models import RunRecord
from runs.web.signed_in import signed_in_only

from .fragments import find_run
from .values.data_urls import files_in
from .values.markdown import MAX_CHARACTERS, MarkdownText
from .values.rendering import as_text

__all__ = ["download"]

_BATCH_CHARACTERS = 1_000_000


@require_safe
@signed_in_only
def download(request: HttpRequest, id: uuid.UUID, what: str) -> HttpResponseBase:
    """Send ``result`` (or the partial one), ``input`` or ``events`` as a file.

    ``input?file=<path>`` is one file of the input, as it was sent in.
    """
    run = find_run(request, id)
    match what:
        case "result":
            return _result(run)
        case "input" if "file" in request.GET:
            return _file_of_input(run, request.GET["file"])
        case "input":
            value = as_text(run.input_record.value)
            return _attachment(value, "application/json", run, "input", "json")
        case "events":
            return _attachment(_lines(run.pk), "application/x-ndjson", run, "events", "jsonl")
    raise Http404


def _result(run: RunRecord) -> HttpResponseBase:
    is_partial = run.result is None
    value = run.partial_result if is_partial else run.result
    if value is None:
        raise Http404
    name = "partial-result" if is_partial else "result"
    if not isinstance(value, str):
        return _attachment(as_text(value), "application/json", run, name, "json")
    if MarkdownText(value[:MAX_CHARACTERS]).has_markup:
        return _attachment(value, "text/markdown", run, name, "md")
    return _attachment(value, "text/plain", run, name, "txt")


def _file_of_input(run: RunRecord, path: str) -> HttpResponseBase:
    file = dict(files_in(run.input_record.value)).get(path)
    if file is None:
        raise Http404
    try:
        content = file.content()
    except ValueError as error:
        raise Http404 from error
    name = _safe(file.name.rpartition(".")[0]) or _safe(path.removeprefix("input."))
    return _attachment(content, file.safe_type, run, name, file.extension)


async def _lines(run: uuid.UUID) -> AsyncIterator[str]:
    """Write a log line by line, as far as it goes by now, a batch in memory at a time.

    A client that reads slowly holds no database connection meanwhile.
    """
    after = 0
    while batch := await sync_to_async(_batch)(run, after):
        yield "".join(batch)
        after += len(batch)  # seq has no gaps


def _batch(run: uuid.UUID, after: int) -> list[str]:
    found = events.read_as_json(run, after=after, most_characters=_BATCH_CHARACTERS)
    release_connection()
    return [json.dumps(json.loads(event), ensure_ascii=False) + "\n" for event in found]


def _attachment(
    content: str | bytes | AsyncIterator[str],
    media_type: str,
    run: RunRecord,
    name: str,
    extension: str,
) -> HttpResponseBase:
    """Let the browser save it; it must never show it as a page of this site."""
    if isinstance(content, str):
        media_type += "; charset=utf-8"
    response: HttpResponseBase
    if isinstance(content, (str, bytes)):
        response = HttpResponse(content, content_type=media_type)
    else:
        response = StreamingHttpResponse(content, content_type=media_type)
    # The end of a UUIDv7 is its random part: ids of one minute start alike.
    parts = (_safe(run.agent), run.pk.hex[-8:], name)
    file_name = f"{'-'.join(part for part in parts if part)}.{extension}"
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def _safe(name: str) -> str:
    """Keep the part of a name that is harmless in a header and in any file system."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-")
