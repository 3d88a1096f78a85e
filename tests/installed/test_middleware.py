"""Sites with middleware and settings that other packages bring, or without some of Django's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.new_site import NewSite

from .conftest import AGENTS, MakeSite

PAGES = ["app/", "app/agents/patient/", "app/runs/", "app/tokens/", "admin/runs/runrecord/"]

MIDDLEWARE = '''
from django.urls import reverse


def reversing(get_response):
    """As a toolbar does, whose addresses are in the site's urlconf alone."""

    def answer(request):
        reverse("toolbar")
        response = get_response(request)
        reverse("toolbar", urlconf=getattr(request, "urlconf", None))
        return response

    return answer


def strict(get_response):
    def answer(request):
        request.urlconf = "mysite.urls"  # as packages for hosts do
        response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return answer
'''
URLS = """
urlpatterns += [path("toolbar/", lambda request: None, name="toolbar")]
"""
BEYOND = """
MIDDLEWARE = [
    "mysite.beyond.reversing",
    "mysite.beyond.strict",
    *MIDDLEWARE,
    "django.middleware.locale.LocaleMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
]
DATABASES["default"]["ATOMIC_REQUESTS"] = True
LANGUAGE_CODE = "de"
USE_THOUSAND_SEPARATOR = True
X_FRAME_OPTIONS = "SAMEORIGIN"
"""
WITHOUT = """
for name in ("messages", "admin"):
    INSTALLED_APPS.remove(f"django.contrib.{name}")
MIDDLEWARE = [name for name in MIDDLEWARE if "messages" not in name]
TEMPLATES[0]["OPTIONS"]["context_processors"] = [
    name for name in TEMPLATES[0]["OPTIONS"]["context_processors"] if "messages" not in name
]
USE_I18N = False
APPEND_SLASH = False
"""
SIGN_IN = """
from django.contrib.auth.models import User
from django.test import Client

client = Client()
client.force_login(User.objects.get(username="bob"))
print(client.cookies["sessionid"].value)
"""


@pytest.fixture
def beyond(make_site: MakeSite) -> NewSite:
    return make_site(
        settings=BEYOND, files={"mysite/beyond.py": MIDDLEWARE, "mysite/urls.py": URLS}
    )


def test_middleware_of_others(beyond: NewSite) -> None:
    with beyond.served() as client:
        assert client.get("health/live").json() == {"status": "alive"}
        assert client.get("runs").status_code == 401
        assert client.get("api/schema").status_code == 200
        unknown = client.get("runs/a/b/c")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        refused = client.post("api-token", json={"username": "ann", "password": "wrong"})
        assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
        beyond.sign_in(client, "ann")
        for page in PAGES:
            assert client.get(page).status_code == 200, page
        headers = {"X-CSRFToken": client.cookies["csrftoken"]}
        run = client.post("runs", json={"agent": "patient"}, headers=headers).json()
        # More than Django's DATA_UPLOAD_MAX_MEMORY_SIZE, which is not the API's limit.
        large = {"agent": "none", "input": {"word": "x" * 4_000_000}}
        refused = client.post("runs", json=large, headers=headers)
        assert (refused.status_code, list(refused.json()["fields"])) == (400, ["agent"])
        missing = client.get(f"app/runs/{run['id'][:-12]}{'0' * 12}/")
        assert missing.status_code == 404
        assert "There is nothing here" in missing.text
        stop = client.post(f"runs/{run['id']}/stop?wait=0.1", json={}, headers=headers)
        assert stop.status_code == 202
        beyond.write("go", "")
        # The stop was delivered when it was answered: it does not wait for the end of a request.
        assert beyond.finished(client, run["id"])["status"] == "stopped"
        page = client.get(f"app/runs/{run['id']}/")
        assert 'maxlength="500"' in page.text
        client.get(f"admin/runs/runrecord/{run['id']}/change/").raise_for_status()
    done = beyond.shell(
        "from halting.runs.identity.models import AuditEntry\n"
        "print([(one.act, one.actor, one.address) for one in AuditEntry.objects.all()])"
    )
    assert "('stop', 'ann', '127.0.0.1')" in done
    assert "Traceback" not in "".join(client.log)  # type: ignore[attr-defined]


def test_without_messages_admin_and_translations(tmp_path: Path, package: Path) -> None:
    site = NewSite(tmp_path / "site", package, settings=WITHOUT)
    site.replace("mysite/urls.py", "path('admin/', admin.site.urls),", "")
    site.add_agents(AGENTS)
    site.manage("migrate")
    site.add_user("bob")
    with site.served() as client:
        answer = client.get("app/")
        assert answer.headers["Location"].startswith("/accounts/login/")  # of the site's, to come
        session = site.shell(SIGN_IN).split()[-1]
        client.cookies.set("sessionid", session)
        for page in ("app/", "app/agents/patient/", "app/runs/", "app/tokens/"):
            assert client.get(page).status_code == 200, page
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"]}
        made = client.post("app/tokens/", data={**form, "name": "one", "days": "1"})
        (address,) = re.findall(r'action="/(app/tokens/[^"]+/revoke)"', made.text)
        assert client.post(address, data=form).status_code == 302
        assert client.get("app/runs").status_code == 404  # without APPEND_SLASH
    assert "Traceback" not in "".join(client.log)  # type: ignore[attr-defined]
