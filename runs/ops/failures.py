"""Log the runs whose agents fail: one line for each, at ERROR, so that Sentry and the like see it.

The run's own log has the whole traceback, for its owner. The process's log is for operators, and
its handlers pass it on to strangers. Some send the local variables of each frame along: inputs and
prompts. So a line has a copy of the exception, which has neither values nor secrets.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any

from agents.runtime import Outcome, describe_error

__all__ = ["log_failure", "without_exception", "without_values"]

#: ``runs.agents``: sites name it in their settings.
logger = logging.getLogger(f"{__name__.rpartition('.ops.')[0]}.agents")

MOST_FRAMES = 50  # the innermost
MOST_CAUSES = 10


def log_failure(run: uuid.UUID, agent: str, error: BaseException) -> None:
    """Log that a run has ended in an error of its agent; ``error`` is ``without_values``."""
    facts = {"run": str(run), "agent": agent}
    logger.error("run %s of the agent %s failed", run, agent, exc_info=error, extra=facts)


def without_values(error: BaseException, depth: int = 0) -> BaseException:
    """Copy an exception without the variables of its frames, and without secrets in its message.

    The copy has the name of the exception's class, the lines of its traceback, and its causes. It
    is of another class: the original's methods may say what they like.
    """
    message = describe_error(error)["message"]
    copied: BaseException
    if isinstance(error, BaseExceptionGroup) and depth < MOST_CAUSES:
        parts = [without_values(one, depth + 1) for one in error.exceptions[:MOST_CAUSES]]
        copied = BaseExceptionGroup(message, parts)
    else:
        copied = _named_like(type(error))(message)
    if depth < MOST_CAUSES:
        if error.__cause__ is not None:
            copied.__cause__ = without_values(error.__cause__, depth + 1)
        elif error.__context__ is not None and not error.__suppress_context__:
            copied.__context__ = without_values(error.__context__, depth + 1)
    copied.__suppress_context__ = error.__suppress_context__
    return copied.with_traceback(_without_locals(error.__traceback__))


def without_exception(outcome: Outcome) -> tuple[Outcome, BaseException | None]:
    """Take the exception out of an outcome, and return what of it may be logged.

    While the ending is written, nothing keeps the agent's variables in memory.
    """
    error = outcome.exception
    if error is None:
        return outcome, None
    try:
        failure = without_values(error)
    except Exception as unreadable:  # its class is the agent's, and does what it likes
        failure = RuntimeError(f"an error that can't be read ({type(unreadable).__name__})")
    return replace(outcome, exception=None), failure


def _named_like(kind: type) -> type[Exception]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Exception,), names)


def _without_locals(original: TracebackType | None) -> TracebackType | None:
    """Copy a traceback: its files, functions and lines, with frames that have no variables."""
    copied: TracebackType | None = None
    for frame, line in reversed(list(traceback.walk_tb(original))[-MOST_FRAMES:]):
        # -1 is no instruction: its columns would be those of other code.
        copied = TracebackType(copied, _frame_like(frame), -1, line)
    return copied


class _Raised(Exception):
    pass


_RAISE = compile("raise Raised", "<raise>", "exec")


def _frame_like(frame: FrameType) -> FrameType:
    """Return a frame with the names of another one; the only way to one is to raise in it.

    Jinja shows the lines of its templates by the same means.
    """
    code = frame.f_code
    raising = _RAISE.replace(
        co_filename=code.co_filename, co_name=code.co_name, co_qualname=code.co_qualname
    )
    module: dict[str, Any] = {"__name__": frame.f_globals.get("__name__"), "Raised": _Raised}
    try:
        exec(raising, module, {})  # noqa: S102 - the line above, which is no one's input
    except _Raised as raised:
        made = raised.__traceback__
    assert made is not None
    assert made.tb_next is not None
    return made.tb_next.tb_frame
