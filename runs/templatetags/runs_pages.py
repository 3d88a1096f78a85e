"""Template tags for signs, chips, instants, the word of a Stop button, and what scripts need."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from django import template
from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from runs.status import STOPPING
from runs.web import addresses
from runs.wording.ladder import Offer, Planned, is_due, planned_words
from runs.wording.status import look
from runs.wording.time import clock

register = template.Library()

_DISABLED = {False: "", True: SafeString(" disabled")}


@register.simple_tag(takes_context=True)
def csrf_for_scripts(context: template.Context) -> SafeString:
    """Write how scripts send the CSRF token: its cookie, its header, and the page's own token.

    The cookie comes first, since it changes when the reader signs in again in another tab. Scripts
    can't read it where the site has CSRF_COOKIE_HTTPONLY or CSRF_USE_SESSIONS.
    """
    token = context.get("csrf_token")
    if token is None:  # an error page, which is drawn without the request
        return SafeString("")
    return format_html(
        '<meta name="csrf-token" content="{}" data-cookie="{}" data-header="{}">',
        token,
        settings.CSRF_COOKIE_NAME,
        settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-"),
    )


@register.simple_tag
def list_addresses() -> SafeString:
    """Write the attributes by which ``list_feed.js`` finds the list of runs and its feed."""
    feed, runs = addresses.socket("runs"), reverse("halting:api-runs")
    return format_html('data-feed="{}" data-list="{}"', feed, runs)


@register.simple_tag
def sign_in_address() -> str:
    """Write the address of the site's sign-in page."""
    return addresses.sign_in()


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
def stop_word(status: str, offer: Offer | None = None) -> SafeString:
    """Write "Stop", "Stopping...", or the offer that is due; the script switches between them."""
    words = (_("Stop"), _("Stopping..."))
    return format_html(
        '<span class="button-word" data-stop="{}" data-stopping="{}">{}</span>',
        *words,
        offer["label"] if offer and is_due(offer, timezone.now()) else words[status == STOPPING],
    )


@register.simple_tag
def row_stop(status: str, offer: Offer | None) -> SafeString:
    """Write the attributes of the Stop in a line of a list, for ``row_stop.js``.

    Without the script the button sends its mode.
    """
    if offer is None:
        return format_html('name="mode" value="graceful"{}', _DISABLED[status == STOPPING])
    due = is_due(offer, timezone.now())
    title = ". ".join(filter(None, (offer["hint"], offer["effect"]))) if due else ""
    return format_html(
        'name="mode" value="{}" title="{}" data-offer="{}"{}',
        offer["mode"] if due else "graceful",
        title,
        json.dumps(offer),
        _DISABLED[not due],
    )


@register.simple_tag
def until(planned: Planned) -> SafeString:
    """Write a planned rung of a stop; the script counts down."""
    return format_html(
        '<span data-until="{}" data-text="{}">{}</span>',
        planned["at"],
        planned["text"],
        planned_words(planned, timezone.now()),
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
