"""Agents that read documents: ``summarise`` one, ``compare`` several, ``summarise_many``.

They show, in this order: how an agent is declared, how it is stopped and what it leaves behind,
how it calls others, how it starts others on any worker, and how it works without ``async``.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from collections import Counter
from typing import Annotated

from pydantic import BaseModel, Field

from agents import (
    AgentError,
    AgentStopped,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
    check_should_stop,
    cleanup,
    should_stop,
)

from .documents import read_document
from .splitting import split

__all__ = ["compare", "count_words", "merge_notes", "summarise", "summarise_many"]

PART_CHARACTERS = 12_000  # some 3,000 tokens, which leaves room for the reply in any model
ALL_SUMMARIES_WORDS = 3_000  # of the summaries that are compared, together

TAKE_NOTES = (
    "You read one part of a longer document. Write down, in short sentences, whatever somebody"
    " needs who is to summarise the document without having read it."
)
SHORTEN_NOTES = "Rewrite these notes on a document in half their length. Keep facts and names."
SUMMARISE = "These are notes on a document, in its order. Summarise it in at most {words} words."
COMPARE = (
    "These are summaries of several documents. Say in at most {words} words in what the documents"
    " agree and in what they differ."
)

Document = Annotated[
    str,
    Field(
        description="Text, an http(s) address, or a PDF (as a data: URL).",
        json_schema_extra={"format": "textarea", "x-accept": "text/*,.md,application/pdf"},
    ),
]
Words = Annotated[int, Field(ge=1, le=5_000, description="How long the answer may be.")]


@agent("summarise", title="Summarise a document", on_worker_loss="requeue")
async def summarise(tools: Tools, document: Document, words: Words = 200) -> str:
    """Summarise a document of any length: text, a web page or a PDF.

    It reads part by part, keeps a note on each in the data store, and has the notes merged. Asked
    again about the same document it reuses its notes, so running it twice is safe and cheap.
    Stopped half-way it returns the notes that it has.
    """
    text = await read_document(document)
    # Computing on megabytes is not for the event loop, which all agents share.
    parts = await asyncio.to_thread(_parts, text, tools.default_model)
    tools.data_store.use_namespace("summarise")
    notes: list[str] = []
    try:
        known = await tools.data_store.get_many([key for key, _ in parts])
        for key, part in parts:
            tools.progress(len(notes), len(parts), "reading")
            notes.append(known.get(key) or await _take_note(tools, key, part))
        tools.progress(len(notes), len(parts), "merging the notes")
        return str(await tools.agents.call("merge_notes", {"notes": notes, "words": words}))
    except (AgentStopped, SubAgentStopped):
        # Catch a stop only to return at once: what a stopped agent returns is its partial result.
        # If merge_notes alone was stopped, it is the result.
        if not notes:
            raise
        return "\n\n".join([f"Notes on {len(notes)} of {len(parts)} parts:", *notes])


def _parts(text: str, model: str) -> list[tuple[str, str]]:
    """Return the parts of a text, each with the key of its note.

    The key covers all that the note depends on, so no note is ever out of date.
    """
    return [
        (hashlib.sha256("\0".join((model, TAKE_NOTES, part)).encode()).hexdigest(), part)
        for part in split(text, PART_CHARACTERS)
        if part.strip()
    ]


async def _take_note(tools: Tools, key: str, part: str) -> str:
    note = await _ask(tools, TAKE_NOTES, part)
    async with cleanup():  # the note is paid for: keep it, even after a stop
        await tools.data_store.set(key, note)
    return note


@agent("merge_notes", title="Merge notes into a summary")
async def merge_notes(
    tools: Tools,
    notes: Annotated[list[str], Field(min_length=1, description="In the document's order.")],
    words: Words = 200,
) -> str:
    """Make one summary of notes on a document, however many there are.

    Notes that are too long for one call are shortened first, part by part, until they fit.
    """
    text = "\n\n".join(notes)
    while len(parts := list(split(text, PART_CHARACTERS))) > 1:
        shorter: list[str] = []
        for part in parts:
            tools.progress(len(shorter), len(parts), "shortening the notes")
            note = await _ask(tools, SHORTEN_NOTES, part)
            # Cut, so that this ends even with a model that can't be brief.
            shorter.append(note[: len(part) // 2])
        text = "\n\n".join(shorter)
    return await _ask(tools, SUMMARISE.format(words=words), text)


@agent("compare", title="Compare documents", on_worker_loss="requeue")
async def compare(
    tools: Tools,
    documents: Annotated[list[Document], Field(min_length=2, max_length=20)],
    words: Words = 200,
) -> str:
    """Say in what several documents agree and differ.

    Each document is read by a ``summarise`` of its own, all at the same time. One that fails, or is
    stopped by itself, is left out. Stopped as a whole, it returns the summaries that it has.
    """
    words_each = ALL_SUMMARIES_WORDS // max(10, len(documents))
    done = itertools.count(1)

    async def read(document: str) -> str:
        try:
            asked = {"document": document, "words": words_each}
            return str(await tools.agents.call("summarise", asked))
        finally:
            tools.progress(next(done), len(documents), "reading")

    # Exceptions as values: all children have ended before the next line.
    ends = await asyncio.gather(*map(read, documents), return_exceptions=True)
    summaries: list[str] = []
    left_out: list[str] = []
    for number, end in enumerate(ends, 1):
        match end:
            case str():
                summaries.append(f"Document {number}: {end}")
            case SubAgentStopped() | SubAgentFailed():
                left_out.append(f"Document {number} is left out: {end}.")
            case AgentStopped():
                left_out.append(f"Document {number} was not read to its end.")
            case _:
                raise end
    try:
        check_should_stop()
        if len(summaries) < 2:
            raise AgentError(" ".join(["There are no two documents to compare.", *left_out]))
        answer = await _ask(tools, COMPARE.format(words=words), "\n\n".join(summaries))
    except AgentStopped:
        return "\n\n".join(summaries + left_out)
    return "\n\n".join([answer, *left_out])


@agent("summarise_many", title="Summarise many documents", on_worker_loss="requeue")
async def summarise_many(
    tools: Tools,
    documents: Annotated[list[Document], Field(min_length=1, max_length=100)],
    words: Words = 100,
) -> list[str]:
    """Summarise many documents, on as many workers as are free; one answer for each.

    Each is read by a ``summarise`` of its own that is started, not called: any worker may take it.
    Stopped, it returns the summaries that it has by then.
    """
    inputs = [{"document": document, "words": words} for document in documents]
    handles = [await tools.agents.start("summarise", input) for input in inputs]
    answers: list[str] = []
    try:
        for number, handle in enumerate(handles, 1):
            tools.progress(number - 1, len(handles), "reading")
            try:
                answers.append(str(await handle))
            except (SubAgentStopped, SubAgentFailed) as error:
                answers.append(f"Document {number} is left out: {error}.")
    except AgentStopped:
        if not answers:
            raise
    return answers


async def _ask(tools: Tools, task: str, text: str) -> str:
    reply = await tools.call_llm(
        [{"role": "system", "content": task}, {"role": "user", "content": text}]
    )
    return reply.text


class WordCount(BaseModel):
    """One line of the answer of ``count_words``."""

    word: str
    count: int


@agent("count_words", title="Count words")
def count_words(
    tools: SyncTools,
    text: Annotated[str, Field(json_schema_extra={"format": "textarea"})],
    top: Annotated[int, Field(ge=1, le=1_000)] = 20,
) -> list[WordCount]:
    """Count the words of a text, the most frequent first.

    A ``def`` agent: it may compute and block as it likes, since it has a thread to itself. It never
    calls a tool that could refuse, so it looks for a stop by itself, and returns what it has.
    """
    counts: Counter[str] = Counter()
    for number, match in enumerate(re.finditer(r"\w+", text)):
        if should_stop():
            break
        if number % 10_000 == 0:
            tools.progress(match.start(), len(text))
        counts[match[0].lower()] += 1
    return [WordCount(word=word, count=count) for word, count in counts.most_common(top)]
