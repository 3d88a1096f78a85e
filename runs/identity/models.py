"""The tokens of programs, and the record of who did what."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from runs.db.users import MAX_USERNAME_LENGTH
from runs.models import uuid7

__all__ = [
    "ADDRESS_LENGTH",
    "MAX_NAME_LENGTH",
    "MAX_SUBJECT_LENGTH",
    "Act",
    "ApiToken",
    "AuditEntry",
]

MAX_NAME_LENGTH = 100  # of a token
MAX_SUBJECT_LENGTH = 200
ADDRESS_LENGTH = 45  # the longest IPv6 address


class ApiToken(models.Model):
    """A key that a program sends instead of a password. The table has only the key's hash."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        related_name="api_tokens",
        verbose_name=_("user"),
    )
    name = models.CharField(_("name"), max_length=MAX_NAME_LENGTH, default="", blank=True)
    #: SHA-256 of the key. The key is 256 random bits, so a slow hash would add nothing.
    digest = models.CharField(max_length=64, unique=True, editable=False)
    #: The first characters of the key, by which its user recognises it.
    hint = models.CharField(_("begins with"), max_length=8)
    #: Of the user's password when the token was made: a token ends with the password.
    password_mark = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    expires_at = models.DateTimeField(_("expires"), null=True)
    #: Written once a minute at most.
    last_used_at = models.DateTimeField(_("last used"), null=True)
    last_address = models.CharField(_("last address"), max_length=ADDRESS_LENGTH, default="")

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.name or f"{self.hint}..."


class Act(models.TextChoices):
    """What was done."""

    STOP = "stop", _("stop of a run")
    LIMITS = "limits", _("change of a run's limits")
    SIGN_IN = "sign_in", _("sign-in")
    SIGN_IN_FAILED = "sign_in_failed", _("failed sign-in")
    SIGN_OUT = "sign_out", _("sign-out")
    PASSWORD = "password", _("change of a password")
    TOKEN_CREATED = "token_created", _("token created")
    TOKEN_REVOKED = "token_revoked", _("token revoked")
    RIGHTS = "rights", _("change of rights")
    ACCOUNT = "account", _("account created or deleted")


class AuditEntry(models.Model):
    """Who did what, when, and from where. Rows are added, and never changed.

    The actor is kept as text, without a foreign key: an entry outlives its user. On PostgreSQL a
    trigger refuses changes; see the migration.
    """

    at = models.DateTimeField(_("at"), default=timezone.now)
    act = models.CharField(_("act"), max_length=20, choices=Act)
    #: The key of the user as text, whatever it is in the site's model.
    actor_id = models.CharField(_("user id"), max_length=255, null=True)  # noqa: DJ001
    #: The username; empty for the command line and for names that no user has.
    actor = models.CharField(_("by"), max_length=MAX_USERNAME_LENGTH, default="")
    address = models.CharField(_("address"), max_length=ADDRESS_LENGTH, default="")
    #: The run, user, group or token that it was done to.
    subject = models.CharField(_("of"), max_length=MAX_SUBJECT_LENGTH, default="")
    detail = models.TextField(_("detail"), default="")
    #: Failed sign-ins of one account, from one address, in one minute are one entry.
    count = models.PositiveIntegerField(_("count"), default=1)

    class Meta:
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["-at", "-id"], name="audit_newest")]
        constraints = [
            models.UniqueConstraint(
                fields=["actor", "address", "at"],
                condition=Q(act="sign_in_failed"),
                name="audit_failures_of_a_minute",
            ),
        ]

    def __str__(self) -> str:
        act = str(self.get_act_display())
        return f"{act}: {self.subject}" if self.subject else act
