"""Add to the audit log what happens to users: by whatever door, Django sends a signal.

``QuerySet.update()`` and SQL send none. Workers notice users who were deactivated that way
(``runs.actions.owners``); other such changes are not in the log.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save

from runs.db.users import has_column, username_of

from . import actors, audit, sessions, tokens
from .actors import Actor
from .models import Act

__all__ = ["connect"]

_FLAGS = ("is_active", "is_staff", "is_superuser")
_WATCHED = ("password", *_FLAGS)
_BEFORE = "_watched_before"  # of a user who is being saved


def connect() -> None:
    """Connect the receivers; again does no harm."""
    users = get_user_model()
    user_logged_in.connect(_signed_in, dispatch_uid="identity.signed_in")
    user_logged_out.connect(_signed_out, dispatch_uid="identity.signed_out")
    pre_save.connect(_before_save, sender=users, dispatch_uid="identity.before_save")
    post_save.connect(_saved, sender=users, dispatch_uid="identity.saved")
    post_delete.connect(_deleted, sender=users, dispatch_uid="identity.user_deleted")
    post_delete.connect(_deleted, sender=Group, dispatch_uid="identity.group_deleted")
    relations: dict[Any, str] = {Group.permissions.through: "permissions"}
    for name, words in (("groups", "groups"), ("user_permissions", "permissions")):
        if hasattr(users, name):  # PermissionsMixin has them
            relations[getattr(users, name).through] = words
    for relation, words in relations.items():
        m2m_changed.connect(
            _Relation(words).changed,
            sender=relation,
            weak=False,
            dispatch_uid=f"identity.{relation.__name__}",
        )


def _signed_in(request: Any, user: Any, **_: Any) -> None:
    sessions.begin(request)
    audit.note(Act.SIGN_IN, by=Actor.of(user, actors.address_of(request)))


def _signed_out(request: Any, user: Any, **_: Any) -> None:
    if user is not None:
        audit.note(Act.SIGN_OUT, by=Actor.of(user, actors.address_of(request)))


def _before_save(instance: Any, raw: bool, update_fields: Any, **_: Any) -> None:
    """Read what is stored before the save, unless the save leaves it alone."""
    vars(instance).pop(_BEFORE, None)
    is_about_it = update_fields is None or {*update_fields} & {*_WATCHED}
    if raw or instance._state.adding or not is_about_it:
        return
    watched = [name for name in _WATCHED if has_column(name)]
    stored = type(instance)._base_manager.filter(pk=instance.pk).values(*watched).first()
    vars(instance)[_BEFORE] = stored or {}


def _saved(instance: Any, raw: bool, created: bool, update_fields: Any, **_: Any) -> None:
    if raw:
        return
    name = username_of(instance)
    if created:
        flags = ", ".join(flag for flag in _FLAGS if getattr(instance, flag, False))
        audit.note(Act.ACCOUNT, subject=name, detail=f"Created. {flags}")
        return
    before = vars(instance).pop(_BEFORE, None) or {}
    changed = {name for name in before if before[name] != getattr(instance, name)}
    if changed & {*_FLAGS}:
        words = [
            f"{flag} {before[flag]} -> {getattr(instance, flag)}"
            for flag in _FLAGS
            if flag in changed
        ]
        audit.note(Act.RIGHTS, subject=name, detail=", ".join(words))
    # A sign-in that gives the same password a better hash saves this field alone, and has taken the
    # password away that set_password() leaves here until the end of save().
    is_rehash = update_fields is not None and {*update_fields} == {"password"}
    if "password" in changed and not (is_rehash and instance._password is None):
        ended = tokens.end_all_of(instance)
        audit.note(Act.PASSWORD, subject=name, detail=f"API tokens ended: {ended}")


def _deleted(instance: Any, **_: Any) -> None:
    if isinstance(instance, Group):
        audit.note(Act.RIGHTS, subject=f"group {instance.name}", detail="Deleted.")
    else:
        audit.note(Act.ACCOUNT, subject=username_of(instance), detail="Deleted.")


class _Relation:
    """Notes the changes of users' groups, users' permissions, or groups' permissions."""

    def __init__(self, words: str) -> None:
        self._words = words

    def changed(
        self, instance: Any, action: str, reverse: bool, model: Any, pk_set: Any, **_: Any
    ) -> None:
        if action in ("post_add", "post_remove"):
            if pk_set:
                others = model._default_manager.filter(pk__in=pk_set)
                self._note("+" if action == "post_add" else "-", instance, others, reverse=reverse)
        elif action == "pre_clear" and not reverse:  # afterwards it can't be read any more
            held = getattr(instance, _accessor(instance, model)).all()
            if held:
                self._note("-", instance, held, reverse=False)
        elif action == "pre_clear":
            audit.note(Act.RIGHTS, subject=_named(instance), detail=f"taken from all {self._words}")

    def _note(self, sign: str, instance: Any, others: Collection[Any], *, reverse: bool) -> None:
        if reverse:  # group.user_set.add(user): what changes is each of the others
            for other in others:
                self._note_one(other, f"{sign}{instance}")
        else:
            self._note_one(instance, ", ".join(f"{sign}{other}" for other in others))

    def _note_one(self, whose: Any, what: str) -> None:
        audit.note(Act.RIGHTS, subject=_named(whose), detail=f"{self._words} {what}")


def _accessor(instance: Any, model: Any) -> str:
    if model is Group:
        return "groups"
    return "permissions" if isinstance(instance, Group) else "user_permissions"


def _named(whose: Any) -> str:
    return f"group {whose.name}" if isinstance(whose, Group) else str(whose)
