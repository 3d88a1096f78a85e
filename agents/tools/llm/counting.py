"""What a call to a model has used, and what of it its event says."""

from __future__ import annotations

from dataclasses import asdict

from agents.guard import Call
from agents.trace import Usage

from .reply import LLMReply

__all__ = ["count_reply"]


def count_reply(call: Call, reply: LLMReply) -> None:
    """Put a reply into its call's event, without the model's thoughts, and count its usage."""
    event = asdict(reply)
    usage = event.pop("usage")
    event.pop("reasoning")
    call.data.update(event, **usage)
    call.usage = Usage(1, **usage)
