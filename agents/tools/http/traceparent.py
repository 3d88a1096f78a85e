"""The header ``traceparent``, by which a server's own traces continue the run's.

The host of the run says which servers get it (``Guard.traceparent_for``). One that the agent's code
has set itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.guard import Guard

__all__ = ["additional_header", "mark"]

_HEADER = "traceparent"
_OURS = "halting_traceparent"  # among a request's extensions: the header's value, if it is ours


def additional_header(headers: Mapping[str, Any], host: str, guard: Guard) -> dict[str, str]:
    """Return the header for a request that has these, as the only item; empty if it gets none.

    For libraries whose redirects begin with the headers that the agent's code gave.
    """
    if guard.traceparent_for is None or any(name.lower() == _HEADER for name in headers):
        return {}
    value = guard.traceparent_for(host)
    return {} if value is None else {_HEADER: value}


def mark(request: Any, host: str, guard: Guard) -> None:
    """Give a request of httpx or httpx2 the header, or take it from one that led elsewhere."""
    if guard.traceparent_for is None:
        return
    # A redirect has the headers and the extensions of what led there.
    given, ours = request.headers.get(_HEADER), request.extensions.get(_OURS)
    if given is not None and given != ours:
        return
    value = guard.traceparent_for(host)
    if value is not None:
        request.headers[_HEADER] = value
        request.extensions = {**request.extensions, _OURS: value}
    elif given is not None:
        del request.headers[_HEADER]
