"""An event of a run's log in words for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runs.wording.status import look
from runs.wording.time import duration

__all__ = ["event_lines"]

Line = tuple[str, str]  # text, and a tone: one of wording's, or plain, dim, warning


def event_lines(event: Mapping[str, Any]) -> Iterator[Line]:
    """Say an event in lines; those of ``agent_end`` leave out how long it took."""
    data = event["data"]
    match event["type"]:
        case "agent_start":
            if title := data.get("title"):
                yield str(title), "dim"
        case "llm_call":
            yield _llm_call(data), _tone_of(data)
        case "data_store" | "http" | "agent_call":
            yield _call(event["type"], data), _tone_of(data)
        case "progress":
            yield _progress(data), "dim"
        case "log":
            yield from _log(data)
        case "stdout":
            for line in str(data.get("text", "")).splitlines():
                yield f"> {line}", "plain"
        case "error":
            yield f"{data.get('type')}: {data.get('message')}", "bad"
        case "stop_requested":
            yield "asked to stop", "muted"
        case "stop_observed":
            what = " ".join(str(data[key]) for key in ("tool", "label") if data.get(key))
            yield f"met the stop at {what}", "muted"
        case "loop_blocked":
            words = "blocked" if data.get("is_over") else "blocks"
            yield f"{words} the agents' loop: {_ms(data.get('blocked_ms'))}", "warning"
        case "truncated":
            yield "the log is full; what follows is left out", "warning"
        case "agent_end":
            status = look(data["status"])
            yield f"{status.sign} {status.label}", status.tone


def _tone_of(data: Mapping[str, Any]) -> str:
    return {"error": "bad", "stopped": "muted", "aborted": "muted"}.get(data["outcome"], "plain")


def _ms(milliseconds: float | None) -> str:
    return duration((milliseconds or 0) / 1000)


_STORE_VERBS = {
    "get": "looked up",
    "get_many": "looked up",
    "set": "stored",
    "set_many": "stored",
    "delete": "deleted",
    "delete_many": "deleted",
    "list_keys": "listed",
    "get_all": "read all of",
    "clear": "cleared",
    "list_namespaces": "listed the namespaces",
}


def _llm_call(data: Mapping[str, Any]) -> str:
    parts = [f"LLM  {data.get('label')}  {_ms(data.get('duration_ms'))}"]
    if "input_tokens" in data:
        about = "~" if data.get("estimated") else ""
        parts.append(f"{about}{data['input_tokens']} in / {data['output_tokens']} out")
    if calls := data.get("tool_calls"):
        parts.append(f"{len(calls)} tool calls")
    return " · ".join([*parts, *_outcome(data)])


def _call(type: str, data: Mapping[str, Any]) -> str:
    took = _ms(data.get("duration_ms"))
    outcome = _outcome(data)
    match type:
        case "data_store":
            method = str(data["tool"]).rpartition(".")[2]
            keys = data.get("keys_count")
            many = "" if keys is None else f"{keys} {'key' if keys == 1 else 'keys'} in "
            words = f"{_STORE_VERBS.get(method, method)} {many}{data.get('label')}".rstrip()
            parts = [words]
        case "http":
            status = data.get("status")
            parts = [f"HTTP {data.get('label')}", *([str(status)] if status else []), took]
        case _ if data["tool"] == "agents.start":
            parts = [f"sub-agent {data.get('label')} started"]
        case _:
            status = data.get("status")
            ended = f" {look(status).label}" if status else ""
            if status == "stopped":
                outcome = []  # said already
            parts = [f"sub-agent {data.get('label')}{ended}", took]
    return " · ".join([*parts, *outcome])


def _outcome(data: Mapping[str, Any]) -> list[str]:
    match data["outcome"]:
        case "error":
            error = data.get("error") or {}
            return [f"failed: {error.get('message') or error.get('type')}"]
        case "stopped":
            return ["stopped"]
        case "aborted":
            return ["cut off"]
        case _:
            return []


def _progress(data: Mapping[str, Any]) -> str:
    done, total = _number(data.get("done")), data.get("total")
    count = done if total is None else f"{done} of {_number(total)}"
    return f"{count} {data.get('message') or ''}".rstrip()


def _number(value: object) -> str:
    return f"{value:,g}" if isinstance(value, int | float) and abs(value) < 1e6 else str(value)


def _log(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    level = str(data.get("level", "info"))
    message = data.get("message", "")
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    tones = {"debug": "dim", "warning": "warning", "error": "bad", "critical": "bad"}
    for line in text.splitlines():
        yield (line if level == "info" else f"{level}: {line}"), tones.get(level, "plain")
