"""An extractive summary: the most telling sentences of a text, in their order.

After H. P. Luhn, "The Automatic Creation of Literature Abstracts", 1958: a sentence tells as much
as the words in it that the text repeats. It needs no model, and always gives the same answer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

__all__ = ["extract_summary"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_BLOCK_END = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•#>]|\d+[.)])\s)")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[^\Wa-z_])|(?<=[。！？])")
_MARKS = re.compile(r"^\s*(?:[-*•>]+|#+|\d+[.)])\s+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|No|Fig|vs|etc|e\.g|i\.e|cf|approx|Inc|Ltd|Co|Jr|Sr)\.)$"
)
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about above after again against all also am an and any are as at be because been
        before being below between both but by can could did do does doing down during each few
        for from further had has have having he her here hers him his how however i if in into
        is it its itself just may me might more most must my no nor not now of off on once one
        only or other our out over own per same shall she should so some such than that the
        their them then there these they this those through to too under until up upon very was
        we were what when where which while who whom why will with would you your
        """,
    )
)
_SAME = 0.5  # sentences that share this part of their words say the same
_FILLER = 0.5  # of the average score: sentences below it are left out, even if there is room


@dataclass(slots=True)
class _Sentence:
    text: str
    place: int
    length: int  # in words
    words: frozenset[str]  # those that count
    score: float = 0.0


def extract_summary(text: str, words: int) -> str:
    """Return the most telling sentences of ``text``, about ``words`` words of them.

    At least one sentence, if there is any; "" for a text without words.
    """
    sentences = _sentences(text)
    if not sentences:
        return ""
    _score(sentences)
    chosen: list[_Sentence] = []
    left = words
    least = _FILLER * sum(sentence.score for sentence in sentences) / len(sentences)
    for sentence in sorted(sentences, key=lambda s: (-s.score, s.place)):
        if chosen and sentence.score < least:
            break
        if chosen and (sentence.length > left or _is_said(sentence, chosen)):
            continue
        chosen.append(sentence)
        left -= sentence.length
        if left <= 0:
            break
    return " ".join(s.text for s in sorted(chosen, key=lambda s: s.place))


def _sentences(text: str) -> list[_Sentence]:
    found: list[_Sentence] = []
    for block in _BLOCK_END.split(text):
        pending = ""
        for part in _SENTENCE_END.split(_MARKS.sub("", block).strip()):
            pending = f"{pending} {part}".strip()
            if not _ABBREVIATION.search(pending):
                _append(found, pending)
                pending = ""
        _append(found, pending)
    # Headings have no full stop. They are used only when there is nothing else.
    full = [s for s in found if s.length > 3 and s.text[-1] in ".!?…。！？\"'”’)"]
    return full or found


def _append(found: list[_Sentence], text: str) -> None:
    words = [word.casefold() for word in _WORD.findall(text)]
    if words:
        counting = frozenset(words) - _STOP_WORDS
        found.append(_Sentence(" ".join(text.split()), len(found), len(words), counting))


def _score(sentences: list[_Sentence]) -> None:
    counts = Counter(word for sentence in sentences for word in sentence.words)
    for sentence in sentences:
        weight = sum(
            counts[word] - 1 for word in sentence.words
        )  # a word that comes once tells nothing
        # Without the division the longest sentence would win, without the exponent the shortest.
        sentence.score = weight / (sentence.length + 8) ** 0.8
    sentences[0].score *= 1.5  # a text starts with its subject


def _is_said(sentence: _Sentence, chosen: list[_Sentence]) -> bool:
    return any(
        len(sentence.words & other.words)
        > _SAME * max(1, min(len(sentence.words), len(other.words)))
        for other in chosen
    )
