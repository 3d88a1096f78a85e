"""The ear that all other tests in here rely on: a test of theirs can fail."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page

from tests.support.browser import Complaints
from tests.support.server import eventually

_UNDER_OUR_POLICY = {
    "uncaught: no such thing": "setTimeout(() => { throw new Error('no such thing') })",
    "console: oh dear": "console.error('oh dear')",
    "Content Security Policy": "document.body.setAttribute('style', 'color: red')",
    "status of 404": "void fetch('/app/nowhere')",
    "dialog: hello": "setTimeout(() => alert('hello'))",
}


@pytest.mark.parametrize("complaint", _UNDER_OUR_POLICY)
def test_whatever_goes_wrong_on_a_page_is_heard(
    page: Page, complaints: Complaints, complaint: str
) -> None:
    page.goto("/app/")
    complaints.assert_none()
    page.evaluate(_UNDER_OUR_POLICY[complaint])
    # Playwright delivers events only while it is called.
    eventually(lambda: page.evaluate("true") and complaints.heard, complaint)
    with pytest.raises(AssertionError, match=complaint):
        complaints.assert_none()
    complaints.expect(re.escape(complaint), "status of 404")


def test_what_is_expected_is_no_complaint(page: Page, complaints: Complaints) -> None:
    page.goto("/app/")
    complaints.expect("oh .*dear")
    page.evaluate("console.error('oh my dear')")
