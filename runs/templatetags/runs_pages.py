"""Template tags for signs, chips, instants and the word of a Stop button."""

from __future__ import annotations

from datetime import UTC, datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from runs.status import STOPPING
from runs.wording.status import look
from runs.wording.time import clock

register = template.Library()


@register.simple_tag
def sign(name: str) -> SafeString:
    """Draw a sign of ``signs.html``. It is decoration: a word always says the same."""
    return format_html(
        '<svg class="sign sign-{}" aria-hidden="true"><use href="#sign-{}"></use></svg>', name, name
    )


@register.simple_tag
def chip(status: str) -> SafeString:
    """Draw a status: sign and word, never by colour alone."""
    looks = look(status)
    return format_html(
        '<span class="chip tone-{}" data-status="{}">{}<span class="chip-word">{}</span></span>',
        looks.tone,
        status,
        sign(status),
        looks.label,
    )


@register.simple_tag
def stop_word(status: str) -> SafeString:
    """Write "Stop" or "Stopping..."; the script switches between the two."""
    words = (_("Stop"), _("Stopping..."))
    return format_html(
        '<span class="button-word" data-stop="{}" data-stopping="{}">{}</span>',
        *words,
        words[status == STOPPING],
    )


@register.simple_tag
def instant(at: datetime | None, form: str = "time") -> SafeString:
    """Write an instant; the page's script puts it into the reader's own time zone.

    ``form``: ``time`` (14:03:22), ``short`` (14:03, or the day), ``day`` (14:03, on other days with
    the day), ``full`` (with the date).
    """
    if at is None:
        return format_html("{}", "")
    return format_html(
        '<time datetime="{}" data-form="{}">{}</time>',
        at.astimezone(UTC).isoformat(),
        form,
        clock(at, now=None if form == "time" else timezone.now()),
    )
