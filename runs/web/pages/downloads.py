"""A run's result, input and log as files."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_safe

from runs import events
from runs.models import RunRecord

from .found import find_run
from .values.data_urls import files_in
from .values.markdown import MAX_CHARACTERS, MarkdownText
from .values.rendering import as_text

__all__ = ["download"]


@require_safe
@login_required
def download(request: HttpRequest, id: uuid.UUID, what: str) -> HttpResponseBase:
    """Send ``result`` (or what there is of one), ``input`` or ``events`` as a file.

    ``input?file=<path>`` is one file of the input, as it was sent in.
    """
    run = find_run(request, id)
    match what:
        case "result":
            return _result(run)
        case "input" if "file" in request.GET:
            return _file_of_input(run, request.GET["file"])
        case "input":
            value = run.input_record.value
            return _attachment(as_text(value), "application/json", run, "input", "json")
        case "events":
            return _events(run)
    raise Http404


def _result(run: RunRecord) -> HttpResponse:
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


def _file_of_input(run: RunRecord, path: str) -> HttpResponse:
    for place, file in files_in(run.input_record.value):
        if place == path:
            try:
                content = file.content()
            except ValueError as error:
                raise Http404 from error
            name = _safe(file.name.rpartition(".")[0]) or _safe(path.removeprefix("input."))
            return _attachment(content, file.safe_type, run, name, file.extension)
    raise Http404


def _events(run: RunRecord) -> StreamingHttpResponse:
    response = StreamingHttpResponse(_lines(run.pk), content_type="application/x-ndjson")
    _make_attachment(response, run, "events", "jsonl")
    return response


async def _lines(run: uuid.UUID) -> AsyncIterator[str]:
    """Write a log line by line, as far as it goes by now, a batch in memory at a time."""
    after = 0
    while batch := await sync_to_async(events.read)(run, after=after):
        for event in batch:
            yield json.dumps(event.as_dict(), ensure_ascii=False) + "\n"
        after = batch[-1].seq


def _attachment(
    content: str | bytes, media_type: str, run: RunRecord, name: str, extension: str
) -> HttpResponse:
    is_text = isinstance(content, str)
    response = HttpResponse(content, f"{media_type}; charset=utf-8" if is_text else media_type)
    _make_attachment(response, run, name, extension)
    return response


def _make_attachment(response: HttpResponseBase, run: RunRecord, name: str, extension: str) -> None:
    """Let a browser save it, and never show it as a page of ours."""
    # The end of a UUIDv7 is its random part: runs of one minute begin alike.
    parts = [_safe(run.agent), run.pk.hex[-8:], name]
    file_name = "-".join(part for part in parts if part)
    response.headers["Content-Disposition"] = f'attachment; filename="{file_name}.{extension}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"


def _safe(name: str) -> str:
    """Keep of a name what is harmless in a header and in any file system."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-")
