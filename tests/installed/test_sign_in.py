"""A site's own sign-in: where it is, what there is no page for, and a session that ends."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .conftest import MakeSite, OpenPage

URLS = """
from django.contrib.auth.views import LoginView

urlpatterns += [
    path("enter/here/", LoginView.as_view(template_name="enter.html"), name="enter"),
]
"""
FORM = """
<form method="post">{% csrf_token %}{{ form }}<input type="hidden" name="next" value="{{ next }}">
<button>Enter</button></form>
"""
OWN = {"mysite/urls.py": URLS, "mysite/templates/enter.html": FORM}
SETTINGS = """
INSTALLED_APPS += ["mysite"]
LOGIN_URL = "enter"
SESSION_COOKIE_NAME = "their_session"
CSRF_COOKIE_NAME = "their_csrf"
CSRF_HEADER_NAME = "HTTP_X_THEIR_CSRF"
"""


@pytest.mark.browser
@pytest.mark.thorough  # it waits for half a minute
def test_a_session_that_ends_leads_to_the_sites_own_sign_in_and_back(
    make_site: MakeSite, open_page: OpenPage
) -> None:
    site = make_site(settings=SETTINGS, files=OWN)
    with site.served() as client, open_page(client, "401", "403", "WebSocket") as page:
        page.goto("app/agents/patient/")
        expect(page).to_have_url(f"{client.base_url}enter/here/?next=/app/agents/patient/")
        page.get_by_label("Username").fill("ann")
        page.get_by_label("Password").fill("correct horse battery staple")
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#log")).to_contain_text("It has begun.")
        # What is not the site's is not offered.
        page.locator("#user-menu summary").click()
        menu = page.locator("#user-menu .menu-items").get_by_role("link")
        expect(menu).to_have_text(["Administration", "API tokens"])

        site.shell(
            "from django.contrib.sessions.models import Session\nSession.objects.all().delete()"
        )
        run = page.url.removeprefix(str(client.base_url))
        link = page.locator("#connection").get_by_role("link", name="Sign in again")
        expect(link).to_be_visible()
        # A panel is asked for by the script, and redirected to the sign-in.
        page.get_by_role("tab", name="Input").click()
        expect(page.get_by_role("tabpanel", name="Input")).not_to_contain_text("Enter")
        link.click()
        expect(page).to_have_url(f"{client.base_url}enter/here/?next=%2F{run.replace('/', '%2F')}")


@pytest.mark.browser
@pytest.mark.parametrize(
    "setting",
    ["CSRF_USE_SESSIONS", pytest.param("CSRF_COOKIE_HTTPONLY", marks=pytest.mark.thorough)],
)
def test_scripts_send_a_token_that_no_script_can_read_in_the_cookies(
    make_site: MakeSite, open_page: OpenPage, setting: str
) -> None:
    site = make_site(settings=f"{setting} = True\n")
    with site.served() as client, open_page(client) as page:
        page.goto("app/agents/patient/")  # a new site has no sign-in but the admin's
        page.get_by_label("Username").fill("ann")
        page.get_by_label("Password").fill("correct horse battery staple")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#log")).to_contain_text("It has begun.")
        page.locator("#stop").click()
        expect(page.locator("#run-chip")).to_contain_text("Stopping...")  # says the server
        site.write("go", "")
        expect(page.locator("#run-chip")).to_contain_text("Stopped")


@pytest.mark.parametrize(
    ("settings", "leads_to"),
    [
        ('LOGIN_URL = "https://id.example/start?app=7"\n', "https://id.example/start?app=7"),
        pytest.param('LOGIN_URL = "/oauth2/start"\n', "/oauth2/start", marks=pytest.mark.thorough),
        pytest.param("", "/admin/login/", marks=pytest.mark.thorough),
    ],
)
def test_pages_lead_to_the_sites_sign_in(make_site: MakeSite, settings: str, leads_to: str) -> None:
    site = make_site(settings=settings)
    with site.served() as client:
        answer = client.get("app/runs/")
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(leads_to)
        assert "next=" in answer.headers["Location"]
        site.sign_in(client, "ann")
        assert f'data-sign-in="{leads_to}"' in client.get("app/runs/").text
