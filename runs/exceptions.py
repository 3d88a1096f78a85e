"""Errors of the services.

RunError                    code: the stable word that doors answer with
├── RunAlreadyFinished      a stop of a run that is over; run: the record, as in a list
├── StopNotPermitted        this user may see the run, but not stop it
├── ModeNotAvailable        a mode of stopping that is not built yet
├── IdempotencyMismatch     the same Idempotency-Key came with another body
├── PriorityNotPermitted    this user may not raise the priority of a run
├── InputTooLarge           more bytes than a run may be given
├── ParentIsStopping        no child starts below a run that is over or was asked to stop
└── LeaseLost               a worker's claim is not good any more; nothing was written
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from .models import RunRecord

__all__ = [
    "IdempotencyMismatch",
    "InputTooLarge",
    "LeaseLost",
    "ModeNotAvailable",
    "ParentIsStopping",
    "PriorityNotPermitted",
    "RunAlreadyFinished",
    "RunError",
    "StopNotPermitted",
]


class RunError(Exception):
    code: ClassVar[str] = "run_error"


class RunAlreadyFinished(RunError):
    code = "run_already_finished"

    def __init__(self, run: RunRecord) -> None:
        super().__init__(f"The run had already ended as {run.status}.")
        self.run = run


class StopNotPermitted(RunError):
    code = "permission_denied"


class ModeNotAvailable(RunError):
    code = "mode_not_available"


class PriorityNotPermitted(RunError):
    code = "permission_denied"


class IdempotencyMismatch(RunError):
    code = "idempotency_mismatch"


class InputTooLarge(RunError):
    code = "input_too_large"


class ParentIsStopping(RunError):
    code = "parent_is_stopping"


class LeaseLost(RunError):
    code = "lease_lost"
