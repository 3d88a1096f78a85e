"""An event of a run's log in words for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runs.wording.limits import reached_text
from runs.wording.status import look
from runs.wording.time import duration

__all__ = ["event_lines"]

_STORE_VERBS = {
    "get": "looked up",
    "set": "stored",
    "delete": "deleted",
    "list_keys": "listed",
    "get_all": "read all of",
    "clear": "cleared",
    "list_namespaces": "listed the namespaces",
}
_OUTCOME_TONES = {"error": "bad", "stopped": "muted", "aborted": "muted"}
_LOG_TONES = {"debug": "dim", "warning": "warning", "error": "bad", "critical": "bad"}


def event_lines(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say an event in lines of (text, tone). A tone is one of a ``Look``, plain, dim or warning."""
    data = event["data"]
    match event["type"]:
        case "agent_start":
            if title := data.get("title"):
                yield str(title), "dim"
        case "llm_call" | "data_store" | "http" | "agent_call" | "process" as type:
            yield " · ".join(_call(type, data)), _OUTCOME_TONES.get(data["outcome"], "plain")
        case "progress":
            done, total = _number(data.get("done")), data.get("total")
            count = done if total is None else f"{done} of {_number(total)}"
            yield f"{count} {data.get('message') or ''}".rstrip(), "dim"
        case "log":
            level, message = str(data.get("level", "info")), data.get("message", "")
            text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
            for line in text.splitlines():
                said = line if level == "info" else f"{level}: {line}"
                yield said, _LOG_TONES.get(level, "plain")
        case "stdout":
            for line in str(data.get("text", "")).splitlines():
                yield f"> {line}", "plain"
        case "error":
            yield f"{data.get('type')}: {data.get('message')}", "bad"
        case "stop_requested":
            yield reached_text(data) or _stop(data), "muted"
        case "stop_observed":
            what = " ".join(str(data[key]) for key in ("tool", "label") if data.get(key))
            at = "observed the stop at"
            yield "its code was interrupted" if what == "abort" else f"{at} {what}", "muted"
        case "limit_near":
            left = duration(data["limit"] - data["value"])
            yield f"it may go on for {left}, of {duration(data['limit'])}", "warning"
        case "loop_blocked":
            verb = "blocked" if data.get("is_over") else "blocks"
            yield f"{verb} the agents' loop: {_ms(data.get('blocked_ms'))}", "warning"
        case "truncated":
            why = "its owner has stored too much" if data.get("quota") else "the log is full"
            yield f"{why}; what follows is left out", "warning"
        case "agent_end":
            status = look(data["status"])
            yield f"{status.sign} {status.label}", status.tone


def _stop(data: Mapping[str, Any]) -> str:
    """Say a stop request, or that the stop became harder."""
    planned = ", as planned" if data.get("planned") else ""
    match data.get("mode"):
        case "abandon":
            return f"given up{planned}"
        case "abort" if data.get("escalated_at"):
            return f"asked to cut the calls in flight{planned}"
        case "abort":
            return "asked to stop, and to cut the calls in flight"
        case _:
            return "asked to stop"


def _call(type: str, data: Mapping[str, Any]) -> Iterator[str]:
    label, status, took = data.get("label"), data.get("status"), _ms(data.get("duration_ms"))
    match type:
        case "llm_call":
            yield f"LLM  {label}  {took}"
            if "input_tokens" in data:
                about = "~" if data.get("estimated") else ""
                yield f"{about}{data['input_tokens']} in / {data['output_tokens']} out"
            if calls := data.get("tool_calls"):
                yield f"{len(calls)} tool calls"
        case "data_store":
            method = str(data["tool"]).rpartition(".")[2].removesuffix("_many")
            keys = data.get("keys_count")
            many = "" if keys is None else f"{keys} {'key' if keys == 1 else 'keys'} in "
            yield f"{_STORE_VERBS.get(method, method)} {many}{label}".rstrip()
        case "http":
            yield f"HTTP {label}"
            if status:
                yield str(status)
            yield took
        case "process":
            yield f"program {label}"
            if code := data.get("returncode"):
                yield f"exited with {code}"
            yield took
        case _ if data["tool"] == "agents.start":
            yield f"sub-agent {label} started"
        case _:
            yield f"sub-agent {label} {look(status).label if status else ''}".rstrip()
            yield took
    match data["outcome"]:
        case "error":
            error = data.get("error") or {}
            yield f"failed: {error.get('message') or error.get('type')}"
        case "stopped" if type != "agent_call" or status != "stopped":
            yield "stopped"
        case "aborted":
            yield "cut off"


def _ms(milliseconds: float | None) -> str:
    return duration((milliseconds or 0) / 1000)


def _number(value: object) -> str:
    return f"{value:,g}" if isinstance(value, int | float) and abs(value) < 1e6 else str(value)
