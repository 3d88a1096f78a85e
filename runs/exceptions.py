"""Errors of the services.

RunError                    code: the stable word that doors answer with
├── RunAlreadyFinished      a stop of a run that is over; run: the record, as in a list
├── StopNotPermitted        this user may see the run, but not stop it
├── IdempotencyMismatch     the same Idempotency-Key came with another body
├── RunNotOver              a run is not waited for any longer; a TimeoutError as well
├── RunIsStopping           a change of a run that was asked to stop, or has reached its deadline
├── LimitsNotPermitted      this user may not give a run so loose limits; fields: path -> messages
├── PriorityNotPermitted    this user may not raise the priority of a run
├── InputTooLarge           more bytes than a run may be given
├── QuotaExceeded           the owner has used up a quota; code says which, used and allowed
├── SignInRefused           too many wrong passwords, or too many sign-ins at once; seconds: to wait
├── ParentIsStopping        no child starts below a run that is over or was asked to stop
└── LeaseLost               a worker's claim is not good any more; nothing was written
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import RunRecord

__all__ = [
    "IdempotencyMismatch",
    "InputTooLarge",
    "LeaseLost",
    "LimitsNotPermitted",
    "ParentIsStopping",
    "PriorityNotPermitted",
    "QuotaExceeded",
    "RunAlreadyFinished",
    "RunError",
    "RunIsStopping",
    "RunNotOver",
    "SignInRefused",
    "StopNotPermitted",
]


class RunError(Exception):
    code: str = "run_error"


class RunAlreadyFinished(RunError):
    code = "run_already_finished"

    def __init__(self, run: RunRecord) -> None:
        super().__init__(f"The run had already ended as {run.status}.")
        self.run = run


class StopNotPermitted(RunError):
    code = "permission_denied"


class RunNotOver(RunError, TimeoutError):
    code = "run_not_over"


class RunIsStopping(RunError):
    code = "run_is_stopping"


class LimitsNotPermitted(RunError):
    code = "limits_not_permitted"

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        path, messages = next(iter(fields.items()))
        super().__init__(f"You may not raise this limit. {path}: {messages[0]}")
        self.fields = dict(fields)


class PriorityNotPermitted(RunError):
    code = "permission_denied"


class IdempotencyMismatch(RunError):
    code = "idempotency_mismatch"


class InputTooLarge(RunError):
    code = "input_too_large"


class QuotaExceeded(RunError):
    """A quota of the owner is used up.

    Attributes:
        code: ``quota_queued``, ``quota_stored`` or ``quota_keys``.
        used, allowed: in runs, bytes or keys.
        retry_seconds: when the same request may work, if that is likely without a deletion.
    """

    def __init__(
        self, code: str, message: str, *, used: int, allowed: int, retry_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.used = used
        self.allowed = allowed
        self.retry_seconds = retry_seconds


class SignInRefused(RunError):
    code = "throttled"

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"Too many attempts to sign in. Try again in {self.seconds} s.")


class ParentIsStopping(RunError):
    code = "parent_is_stopping"


class LeaseLost(RunError):
    code = "lease_lost"
