"""What a run has left behind, or has started unwatched, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext, ngettext_lazy

from .directions import upright
from .stop import Run, call_kind
from .time import as_datetime, duration, seconds_between

__all__ = ["is_still_running", "left_behind", "unwatched"]

Left = Mapping[str, Any]  # {kind, label, since, ended_at}, as on the wire

_KINDS = {
    "thread": ngettext_lazy("%(count)d thread", "%(count)d threads", "count"),
    "task": ngettext_lazy("%(count)d task", "%(count)d tasks", "count"),
    "process": ngettext_lazy("%(count)d process", "%(count)d processes", "count"),
    "call_llm": ngettext_lazy("%(count)d LLM call", "%(count)d LLM calls", "count"),
    "data_store": ngettext_lazy("%(count)d data store call", "%(count)d data store calls", "count"),
    "http": ngettext_lazy("%(count)d HTTP request", "%(count)d HTTP requests", "count"),
    "agents": ngettext_lazy("%(count)d sub-agent", "%(count)d sub-agents", "count"),
}
_ANY = ngettext_lazy("its code", "%(count)d pieces of its code", "count")
_MOST_LABELS = 5


def is_still_running(run: Run) -> bool:
    """Tell whether code may still be running of a run that was given up."""
    stop = run.get("stop") or {}
    return any(not one["ended_at"] for one in stop.get("left_behind") or ())


def left_behind(run: Run, given_up: str) -> Iterator[str]:
    """Yield the sentences about what was still running when a run was given up.

    ``given_up`` is their beginning: ``Given up``, or ``Given up at 14:03:40 by demo``.
    """
    stop = run["stop"]
    left = list(stop.get("left_behind") or ())
    running = [one for one in left if not one["ended_at"]]
    ended = [one for one in left if one["ended_at"]]
    if running or not left:
        what = _counted(running) if left else _("its code")
        words = {"given_up": given_up, "what": what, "which": _which(running)}
        yield _("%(given_up)s: %(what)s may still run%(which)s.") % words
        yield _("What it does is not recorded, and it can store nothing.")
    else:
        yield f"{given_up}."
    if ended:
        last = max(as_datetime(one["ended_at"]) for one in ended)
        later = duration(seconds_between(run["finished_at"], last))
        words = {"what": _counted(ended), "which": _which(ended), "later": later}
        count = len(ended)
        yield (
            ngettext(
                "Left behind: %(what)s%(which)s; it ended %(later)s after the run.",
                "Left behind: %(what)s%(which)s; they had ended %(later)s after the run.",
                count,
            )
            % words
        )


def unwatched(*, threads: int = 0, processes: int = 0, connections: int = 0) -> str:
    """Return ``It started 1 thread that is not watched. It made 2 connections that no guard saw.``

    Or one of the two, or nothing.
    """
    made = ngettext(
        "It made %(count)d connection that no guard saw.",
        "It made %(count)d connections that no guard saw.",
        connections,
    ) % {"count": connections}
    said = [_started(threads, processes), made if connections else ""]
    return " ".join(filter(None, said))


def _started(threads: int, processes: int) -> str:
    """Return ``It started 1 thread and 1 process that are not watched.``, or nothing."""
    names = {"thread": threads, "process": processes}
    parts = [str(_KINDS[kind] % {"count": count}) for kind, count in names.items() if count]
    if not parts:
        return ""
    words = {"what": _(" and ").join(parts)}
    return (
        ngettext(
            "It started %(what)s that is not watched.",
            "It started %(what)s that are not watched.",
            sum(names.values()),
        )
        % words
    )


def _counted(left: Sequence[Left]) -> str:
    """Return ``1 thread and 2 LLM calls``."""
    kinds: dict[str, int] = {}
    for one in left:
        kind = call_kind({"tool": one["kind"]}).partition(".")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return _(" and ").join(
        str(_KINDS.get(kind, _ANY) % {"count": count}) for kind, count in kinds.items()
    )


def _which(left: Sequence[Left]) -> str:
    """Return ``: slow (agents.py:34), llama3``; nothing if no label is known."""
    labels = [upright(one["label"]) for one in left if one.get("label")]
    shown = labels[:_MOST_LABELS]
    if len(labels) > len(shown):
        shown.append(_("%(count)d more") % {"count": len(labels) - len(shown)})
    return f": {', '.join(shown)}" if shown else ""
