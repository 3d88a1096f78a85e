"""What the services refuse.

RunError                    code: the stable word that doors answer with
├── RunAlreadyFinished      a stop of a run that is over; run: the record
├── StopNotPermitted        may be seen, may not be stopped by this user
├── ModeNotAvailable        a rung of stopping that does not exist yet
├── IdempotencyMismatch     the same key came with another body
├── PriorityNotPermitted    before its turn, and this user may not
├── InputTooLarge           more bytes than a run may be given
├── ParentIsStopping        no child is begun below a run that was asked to stop
└── LeaseLost               a write of a worker whose claim is not good any more
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
    """The root of this package's errors."""

    code: ClassVar[str] = "run_error"


class RunAlreadyFinished(RunError):
    """The run is over; there is nothing to stop."""

    code = "run_already_finished"

    def __init__(self, run: RunRecord) -> None:
        super().__init__(f"The run had already ended as {run.status}.")
        self.run = run


class StopNotPermitted(RunError):
    """This user may see the run, and may not stop it."""

    code = "permission_denied"


class ModeNotAvailable(RunError):
    """This rung of stopping is not built yet."""

    code = "mode_not_available"


class PriorityNotPermitted(RunError):
    """This user may not let a run go before others' like that."""

    code = "permission_denied"


class IdempotencyMismatch(RunError):
    """An Idempotency-Key was used before, with another body."""

    code = "idempotency_mismatch"


class InputTooLarge(RunError):
    """The input has more bytes than a run may be given."""

    code = "input_too_large"


class ParentIsStopping(RunError):
    """The run that wants a child was asked to stop (or is over)."""

    code = "parent_is_stopping"


class LeaseLost(RunError):
    """The worker's claim on the run is not good any more; nothing was written."""

    code = "lease_lost"
