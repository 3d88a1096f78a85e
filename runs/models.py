"""The records: runs, their events, the data store's entries, the workers.

Only ``actions``, ``transitions`` and retention write runs; views and commands read them.
``RunRecord`` stays small because it is updated all the time while its agent runs: the input has a
table of its own.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import uuid_utils.compat
from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from agents.cancellation import StopMode
from agents.trace import Event
from agents.wire import EventOnWire, Source
from runs.db.users import MAX_USERNAME_LENGTH, may

from .status import ACTIVE, STOPPING, TERMINAL, TRANSITIONS, Status

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

__all__ = [
    "DataStoreEntry",
    "OwnerUsage",
    "RunEvent",
    "RunInput",
    "RunQuerySet",
    "RunRecord",
    "Scope",
    "StopVia",
    "WorkerRecord",
    "uuid7",
]

MAX_REASON_LENGTH = 500  # characters


def uuid7() -> uuid.UUID:
    """Return a new UUIDv7 (RFC 9562): sorts by its time of creation."""
    return uuid_utils.compat.uuid7()


class StopVia(models.TextChoices):
    """The way by which a stop request came."""

    API = "api", _("API")
    ADMIN = "admin", _("admin")
    PAGE = "page", _("page")
    CLI = "cli", _("command line")
    PARENT = "parent", _("parent run")
    BUDGET = "budget", _("budget")
    #: The owner was deactivated, and no request says by whom.
    ACCOUNT = "account", _("deactivated account")


class WorkerRecord(models.Model):
    """A process that runs agents, and its lease.

    The lease belongs to the worker, not to each run: renewing it is one small write, however many
    runs the worker has. A claim is good as long as its worker's row has ``lost_at IS NULL``. A
    process that finds the lease over first sets ``lost_at`` (one process wins), and then recovers
    the worker's runs.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200, help_text=_("host name and process id"))
    #: Same host, boot and process-id namespace: only then does ``pid`` mean anything to others.
    host_identity = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    #: When the process started, in the kernel's ticks since boot: tells a reused pid apart.
    pid_started = models.BigIntegerField()
    capacity = models.PositiveIntegerField()
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now)
    lease_until = models.DateTimeField()
    draining_at = models.DateTimeField(null=True)
    #: Set once: the worker ended, or was declared lost. From then on its writes change nothing.
    lost_at = models.DateTimeField(null=True)
    #: Why it takes fewer runs than the setting allows: too few file descriptors, say.
    limited_by = models.CharField(max_length=200, default="")

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        indexes = [
            models.Index(fields=["lease_until"], condition=Q(lost_at=None), name="worker_lease"),
        ]

    def __str__(self) -> str:
        return self.name


#: The permission that lets a user see the runs of others, and the one that lets a user stop them.
SEE_ALL, STOP_ALL = "runs.view_runrecord", "runs.stop_runrecord"
#: The permission to give runs looser limits than their agents and the site say.
RAISE_LIMITS = "runs.raise_limits"


def _is_signed_in(user: User | AnonymousUser) -> bool:
    return user.is_authenticated and user.is_active


@dataclass(frozen=True, slots=True)
class Scope:
    """Which runs a user may see: own runs, or all with ``SEE_ALL``. Applied without a query.

    The rule for one record is ``RunRecord.may_be_seen_by``.
    """

    user_id: Any
    sees_all: bool = False

    def includes(self, owner_id: Any) -> bool:
        return self.sees_all or owner_id == self.user_id


class RunQuerySet(models.QuerySet["RunRecord"]):
    def visible_to(self, user: User | AnonymousUser) -> Self:
        """Narrow to the runs that ``user`` may see."""
        if not _is_signed_in(user):
            return self.none()
        return self.within(Scope(user.pk, may(user, SEE_ALL)))

    def within(self, scope: Scope) -> Self:
        return self if scope.sees_all else self.filter(owner=scope.user_id)

    def active(self) -> Self:
        return self.filter(status__in=ACTIVE)

    def with_shown_status(self, statuses: list[str]) -> Self:
        """Narrow to runs that are shown as one of ``statuses``, ``stopping`` among them."""
        wanted = Q()
        for status in statuses:
            if status == STOPPING:
                wanted |= Q(status__in=ACTIVE, stop_requested_at__isnull=False)
            elif status in ACTIVE:
                wanted |= Q(status=status, stop_requested_at=None)
            else:
                wanted |= Q(status=status)
        return self.filter(wanted)


class RunRecord(models.Model):
    """One run of one agent.

    Only ``transitions`` writes ``status``, by a conditional UPDATE. Never ``save()`` a record.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    agent = models.CharField(_("agent"), max_length=100)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="runs", verbose_name=_("owner")
    )
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="children")
    #: A root has its own id here: one indexed query reads the whole tree.
    root = models.ForeignKey("self", models.CASCADE, related_name="tree")
    depth = models.PositiveSmallIntegerField(default=0)
    #: Written with the first child, under this row's lock: a transaction that holds the lock and
    #: reads False need not query the children.
    has_children = models.BooleanField(default=False)

    status = models.CharField(_("status"), max_length=10, choices=Status, default=Status.QUEUED)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    result = models.JSONField(null=True)
    partial_result = models.JSONField(null=True)
    error = models.JSONField(null=True, help_text=_("code, type and message"))

    #: Claims so far; with ``worker`` it fences the writes of a worker that lost its claim.
    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=1)
    requeue_on_loss = models.BooleanField(default=False)
    #: Set by a claim, cleared before the agent's code is called. Nothing of such a run has happened
    #: yet: if its worker is lost, it goes back to the queue, whatever its agent declares. Only
    #: means something while it is running. The database has the default, for processes of an older
    #: release: their runs count as begun.
    is_only_claimed = models.BooleanField(default=False, db_default=False)
    #: Claims that were over before the run began: ``max_attempts`` does not count them.
    returned_claims = models.PositiveSmallIntegerField(default=0, db_default=0)
    worker = models.ForeignKey(WorkerRecord, models.SET_NULL, null=True, related_name="runs")
    #: A run from the queue takes a slot of its worker, and counts for the limits of its agent and
    #: its owner. A called agent that runs in its caller's process takes none.
    holds_slot = models.BooleanField(default=True)
    in_flight = models.JSONField(default=list)
    last_seq = models.PositiveIntegerField(default=0)
    llm_calls = models.PositiveIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    usage_estimated = models.BooleanField(default=False)

    #: NULL rather than empty: the constraint below applies to rows with a key only.
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001
    idempotency_digest = models.CharField(max_length=64, default="")

    # The place in the queue: the highest priority first, then the lowest turn.
    priority = models.SmallIntegerField(default=0)
    #: Given at creation so that owners come in turn, however many runs each has queued.
    turn = models.PositiveBigIntegerField(default=0)
    #: If no worker has claimed it by then, it ends in an error.
    queue_until = models.DateTimeField(null=True)

    # For the owner's quota (``runs.quotas``). No index has them, or each write would change it.
    #: Bytes of input, result, partial result and error, and a fixed number for the record itself.
    value_bytes = models.PositiveBigIntegerField(default=0, db_default=0)
    #: Bytes of the events that are stored.
    log_bytes = models.PositiveBigIntegerField(default=0, db_default=0)

    # Deadlines, in seconds; None is no limit.
    deadline_seconds = models.FloatField(null=True)  # from the first claim
    idle_seconds = models.FloatField(null=True)
    call_seconds = models.FloatField(null=True)  # of one guarded call
    #: Set by the first claim, kept over attempts. An earlier one of its caller counts as its own.
    deadline_at = models.DateTimeField(null=True)

    #: When all its events were removed; ``last_seq`` still says how many there were.
    log_removed_at = models.DateTimeField(null=True)

    # The stop receipt.
    stop_requested_at = models.DateTimeField(null=True)
    stop_mode = models.CharField(max_length=10, default="", choices=[(m, m) for m in StopMode])
    stop_reason = models.CharField(max_length=MAX_REASON_LENGTH, default="")
    stop_via = models.CharField(max_length=10, default="", choices=StopVia)
    stop_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    #: The username at that time. It stays when the user is deleted.
    stop_requested_by_name = models.CharField(
        max_length=MAX_USERNAME_LENGTH, default="", db_default=""
    )
    stop_root_request = models.UUIDField(null=True)
    stop_escalated_at = models.DateTimeField(null=True)
    stop_escalated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    stop_escalated_by_name = models.CharField(
        max_length=MAX_USERNAME_LENGTH, default="", db_default=""
    )
    stop_acknowledged_at = models.DateTimeField(null=True)
    stop_observed_at = models.DateTimeField(null=True)
    stop_finished_first = models.BooleanField(default=False)
    stop_calls_started_after_acknowledgement = models.PositiveIntegerField(default=0)
    #: When the stop becomes harder by itself, as its requester has planned.
    stop_abort_at = models.DateTimeField(null=True)
    stop_abandon_at = models.DateTimeField(null=True)
    stop_calls_cut = models.PositiveIntegerField(default=0, db_default=0)
    stop_abandoned = models.BooleanField(default=False)
    #: What was still running when it was abandoned: kind, label, since, ended_at. None is nothing.
    stop_left_behind = models.JSONField(null=True)
    #: The limit that was reached, for a stop via ``budget``.
    stop_limit = models.JSONField(null=True)
    stop_cleanup_error = models.JSONField(null=True)

    # What its code has started, and its worker can't wait for.
    unwatched_threads = models.PositiveIntegerField(default=0, db_default=0)
    unwatched_processes = models.PositiveIntegerField(default=0, db_default=0)
    #: Over a network, that no guarded call carried.
    unwatched_connections = models.PositiveIntegerField(default=0, db_default=0)

    #: What it and all runs below it have used, once ``wire.read_tree_usage`` has read it.
    tree_usage: Any = None

    objects = RunQuerySet.as_manager()

    class Meta:
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        ordering = ["-created_at", "-id"]
        permissions = [
            ("stop_runrecord", "Can stop runs of others"),
            ("prioritise_runrecord", "Can start runs with a raised priority"),
            ("raise_limits", "Can raise the limits of runs"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="run_newest"),
            models.Index(fields=["owner", "-created_at", "-id"], name="run_owner_newest"),
            models.Index(fields=["agent", "-created_at"], name="run_agent_newest"),
            models.Index(
                fields=["-priority", "turn", "created_at"],
                condition=Q(status="queued"),
                name="run_queue",
            ),
            models.Index(
                fields=["owner", "priority", "turn"],
                condition=Q(status="queued"),
                name="run_turn_of_owner",
            ),
            models.Index(
                fields=["priority", "turn"],
                condition=Q(status="running", holds_slot=True),
                name="run_turn_in_service",
            ),
            models.Index(
                fields=["queue_until"],
                condition=Q(status="queued", queue_until__isnull=False),
                name="run_queue_until",
            ),
            models.Index(fields=["worker"], condition=Q(status="running"), name="run_held"),
            # What is due: hardly any run has one of these.
            models.Index(
                fields=["stop_abort_at"],
                condition=Q(status__in=ACTIVE, stop_abort_at__isnull=False),
                name="run_abort_due",
            ),
            models.Index(
                fields=["stop_abandon_at"],
                condition=Q(status__in=ACTIVE, stop_abandon_at__isnull=False),
                name="run_abandon_due",
            ),
            models.Index(
                fields=["deadline_at"],
                condition=Q(status__in=ACTIVE, deadline_at__isnull=False),
                name="run_deadline",
            ),
            models.Index(
                fields=["owner", "agent"],
                condition=Q(status="running", holds_slot=True),
                name="run_slots",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="run_idempotency_key",
            ),
            models.CheckConstraint(
                condition=Q(status__in=list(TRANSITIONS)), name="run_status_is_known"
            ),
            models.CheckConstraint(
                condition=Q(status__in=TERMINAL, finished_at__isnull=False)
                | Q(status__in=ACTIVE, finished_at=None),
                name="run_finished_at_iff_terminal",
            ),
            models.CheckConstraint(
                condition=Q(status="stopped", stop_requested_at__isnull=False)
                | ~Q(status="stopped"),
                name="run_stopped_was_requested",
            ),
            models.CheckConstraint(
                condition=Q(stop_requested_at__isnull=False)
                | Q(
                    stop_mode="",
                    stop_acknowledged_at=None,
                    stop_observed_at=None,
                    stop_finished_first=False,
                    stop_abort_at=None,
                    stop_abandon_at=None,
                    stop_escalated_at=None,
                    stop_abandoned=False,
                ),
                name="run_receipt_needs_request",
            ),
            models.CheckConstraint(
                condition=~Q(stop_abandoned=True) | Q(status="stopped", stop_mode="abandon"),
                name="run_abandoned_is_stopped",
            ),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(attempt__gte=1, started_at__isnull=False),
                name="run_running_was_claimed",
            ),
            models.CheckConstraint(
                condition=Q(status="success", error__isnull=True)
                | Q(status="error", error__isnull=False)
                | ~Q(status__in=["success", "error"]),
                name="run_error_iff_error",
            ),
            models.CheckConstraint(
                condition=Q(parent=None, depth=0, root=F("id"))
                | Q(parent__isnull=False, depth__gt=0),
                name="run_root_is_its_own",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.agent} {self.id}"

    @property
    def attempts_begun(self) -> int:
        """Its claims without those that were over before it began."""
        return self.attempt - self.returned_claims

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def stop_requested(self) -> bool:
        return self.stop_requested_at is not None

    @property
    def shown_status(self) -> str:
        """The status for people: ``stopping`` is derived, not stored."""
        return STOPPING if self.stop_requested and not self.is_terminal else self.status

    @property
    def stop_requester(self) -> str | None:
        """The username of who requested the stop; as it was then if the user is deleted."""
        by = self.stop_requested_by
        return by.get_username() if by else self.stop_requested_by_name or None

    @property
    def stop_escalator(self) -> str | None:
        by = self.stop_escalated_by
        return by.get_username() if by else self.stop_escalated_by_name or None

    def may_be_seen_by(self, user: User | AnonymousUser) -> bool:
        """Tell whether ``visible_to`` includes this run; for an own run without a query."""
        return self._is_open_to(user, SEE_ALL)

    def may_be_stopped_by(self, user: User | AnonymousUser) -> bool:
        """Tell whether ``user``, who may see it, may also stop it."""
        return self._is_open_to(user, STOP_ALL)

    def _is_open_to(self, user: User | AnonymousUser, permission: str) -> bool:
        return _is_signed_in(user) and (self.owner_id == user.pk or may(user, permission))


class RunInput(models.Model):
    """The input of a run; written once."""

    run = models.OneToOneField(
        RunRecord, models.CASCADE, primary_key=True, related_name="input_record"
    )
    value = models.JSONField()
    size_bytes = models.PositiveIntegerField(default=0)
    #: The trace that the run continues, as W3C writes it. Here, for this row is written once.
    traceparent = models.CharField(max_length=55, null=True)  # noqa: DJ001

    def __str__(self) -> str:
        return str(self.run_id)


class RunEvent(models.Model):
    """One line of a run's log; ``seq`` runs from 1 without a gap."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(RunRecord, models.CASCADE, related_name="events", db_index=False)
    seq = models.PositiveIntegerField()
    ts = models.DateTimeField()
    type = models.CharField(max_length=20)
    agent = models.CharField(max_length=100)
    depth = models.PositiveSmallIntegerField()
    source = models.CharField(max_length=10)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["run", "seq"]
        constraints = [
            models.UniqueConstraint(fields=["run", "seq"], name="event_seq_once"),
            models.CheckConstraint(condition=Q(seq__gte=1), name="event_seq_from_1"),
            models.UniqueConstraint(
                fields=["run"], condition=Q(type="agent_end"), name="event_one_end"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.run_id} {self.seq} {self.type}"

    def as_dict(self) -> EventOnWire:
        return Event(
            str(self.run_id),
            self.seq,
            self.ts,
            self.type,
            self.agent,
            self.depth,
            cast(Source, self.source),
            self.data,
        ).as_dict()


class DataStoreEntry(models.Model):
    """A value that an owner's agents keep under a namespace and a key."""

    id = models.BigAutoField(primary_key=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="data_store_entries", db_index=False
    )
    namespace = models.CharField(max_length=500)
    key = models.CharField(max_length=500)
    value = models.JSONField(null=True)
    metadata = models.JSONField(default=dict)
    #: Of place, value and metadata, for the owner's quota.
    size_bytes = models.PositiveBigIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("data store entry")
        verbose_name_plural = _("data store entries")
        constraints = [
            models.UniqueConstraint(fields=["owner", "namespace", "key"], name="entry_once"),
        ]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.key}"


class OwnerUsage(models.Model):
    """What the records of one owner take up; ``runs.quotas`` keeps it.

    Each process adds what it has written about once a second, so the row follows the records. It is
    measured again each hour, which corrects what a killed process could not add.
    """

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="usage"
    )
    stored_bytes = models.BigIntegerField(default=0, db_default=0)
    keys_count = models.BigIntegerField(default=0, db_default=0)
    measured_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("usage of an owner")
        verbose_name_plural = _("usage of owners")

    def __str__(self) -> str:
        return str(self.owner_id)
