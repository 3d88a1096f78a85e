"""A real Chromium, people in it who are signed in, and an ear for whatever goes wrong there.

``tests/browser/conftest.py`` has the fixtures. Playwright's synchronous interface is used: no test
here needs a loop, since the server is a process of its own.
"""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Playwright,
    Request,
    WebError,
)

from .chromium import find_chromium

__all__ = [
    "DESKTOP",
    "PHONE",
    "TIMEOUT_MILLISECONDS",
    "Complaints",
    "People",
    "launch",
]

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
TIMEOUT_MILLISECONDS = 30_000  # shared machines are slow; a test that fails waits this long

_QUIETLY = (
    "--no-sandbox",  # containers have none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def launch(playwright: Playwright) -> Browser:
    """Start the Chromium that is installed on this machine."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=_QUIETLY)


class Complaints:
    """Whatever a careful person would see in the browser's console, of all pages of one test.

    Uncaught errors, console errors (a broken Content-Security-Policy is one), failed requests,
    requests to other hosts, and dialogs, which none of our pages opens.

    Attributes:
        heard: all of it, what is expected included.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        # The admin and the browsable API name no icon, and then the browser looks for one itself.
        self._expected: list[str] = [r"/favicon\.ico"]

    def expect(self, *patterns: str) -> None:
        """Let what matches one of these regular expressions pass, before or after this call."""
        self._expected += patterns

    def forget(self) -> None:
        """Begin anew, with what contexts say that are open."""
        self.heard.clear()
        del self._expected[1:]

    def listen(self, context: BrowserContext) -> None:
        """Hear all pages of ``context``, those of later too.

        Requests and answers are not listened to one by one: a page has dozens, and each would cost
        more than the request. A status from 400 on is a console error, and another host breaks
        the policy, which is one as well.
        """

        def request_failed(request: Request) -> None:
            # Aborted is what becomes of a request whose page is left meanwhile.
            if request.failure != "net::ERR_ABORTED":
                self._hear(f"request failed: {request.method} {request.url}: {request.failure}")

        def console_wrote(message: ConsoleMessage) -> None:
            if message.type == "error":
                self._hear(f"console: {message.text} ({message.location.get('url', '')})")

        def error_was_thrown(error: WebError) -> None:
            self._hear(f"uncaught: {error.error}")

        def dialog_opened(dialog: Dialog) -> None:
            self._hear(f"dialog: {dialog.message}")
            dialog.dismiss()

        context.on("requestfailed", request_failed)
        context.on("console", console_wrote)
        context.on("weberror", error_was_thrown)
        context.on("dialog", dialog_opened)

    def assert_none(self) -> None:
        left = [
            heard
            for heard in self.heard
            if not any(re.search(pattern, heard) for pattern in self._expected)
        ]
        assert not left, "the browser complained:\n" + "\n".join(left)

    def _hear(self, complaint: str) -> None:
        self.heard.append(complaint)


class People:
    """Opens windows for people who are signed in at a server, and closes them all again."""

    def __init__(self, browser: Browser, url: str, complaints: Complaints) -> None:
        self._browser = browser
        self._url = url
        self._complaints = complaints
        self._contexts: list[BrowserContext] = []

    def open(
        self,
        user: str | None = "demo",
        *,
        phone: bool = False,
        dark: bool = False,
        sessions: dict[tuple[str, str], Any] | None = None,
        **options: Any,
    ) -> Page:
        """Open an empty page in a window of its own, with cookies of its own.

        ``user`` is signed in there (its password is its name); None: nobody. ``sessions`` keeps
        the cookies from one call to the next, so that only the first one meets the form.
        """
        sessions = {} if sessions is None else sessions
        key = (self._url, user or "")
        if user and key not in sessions:
            sessions[key] = self._sign_in(user)
        context = self._context(
            storage_state=sessions.get(key),
            viewport=PHONE if phone else DESKTOP,
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
            **options,
        )
        return context.new_page()

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _context(self, **options: Any) -> BrowserContext:
        # Nothing here looks at motion, and without a graphics card it costs more than the rest.
        options = {"reduced_motion": "reduce", **options}
        context = self._browser.new_context(
            base_url=self._url,
            locale="en-GB",
            timezone_id="Asia/Kolkata",  # far from UTC, and no whole number of hours
            **options,
        )
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        self._contexts.append(context)
        self._complaints.listen(context)
        return context

    def _sign_in(self, user: str) -> Any:
        context = self._context()
        page = context.new_page()
        form = page.goto("/accounts/login/")
        assert form is not None
        assert form.ok, f"the sign-in page answers {form.status}"
        page.locator("[name=username]").fill(user)
        page.locator("[name=password]").fill(user)
        page.locator("[name=password]").press("Enter")
        page.wait_for_url("**/app/**")
        return context.storage_state()
