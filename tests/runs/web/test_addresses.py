"""What is derived from where a site includes us, and from its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, set_script_prefix
from django.utils import translation

from runs.web import addresses


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class OfSite:
    urlpatterns = [
        path("tools/halting/", include("runs.urls")),
        path("desk/", admin.site.urls),
    ]


class InLanguages:
    urlpatterns = i18n_patterns(path("halting/", include("runs.urls")))


class WithSignIn:
    urlpatterns = [*OfSite.urlpatterns, path("accounts/login/", view)]


@pytest.fixture
def script_name() -> Iterator[None]:
    set_script_prefix("/portal/")
    yield
    set_script_prefix("/")


def test_sockets_are_below_the_prefix(settings: Any) -> None:
    assert addresses.socket("runs") == "/ws/runs"
    settings.ROOT_URLCONF = OfSite
    assert addresses.prefix() == "/tools/halting/"
    assert addresses.socket("runs/7") == "/tools/halting/ws/runs/7"


def test_sockets_have_one_address_in_all_languages(settings: Any) -> None:
    settings.ROOT_URLCONF = InLanguages
    settings.LANGUAGE_CODE = "en"
    with translation.override("de"):
        assert addresses.prefix() == "/de/halting/"
        assert addresses.socket("runs") == "/en/halting/ws/runs"
        assert addresses.own_path("/en/halting/ws/runs") == "/ws/runs"


def test_the_script_name_comes_first(settings: Any, script_name: None) -> None:
    settings.ROOT_URLCONF = OfSite
    assert addresses.socket("runs") == "/portal/tools/halting/ws/runs"


@pytest.mark.parametrize(
    ("urlconf", "login_url", "expected"),
    [
        (OfSite, "/accounts/login/", "/desk/login/"),  # a new site
        (WithSignIn, "/accounts/login/", "/accounts/login/"),
        (OfSite, "/oauth2/start", "/oauth2/start"),  # perhaps the proxy's
        (OfSite, "https://id.example/start", "https://id.example/start"),
        (OfSite, "halting:page-home", "/tools/halting/app/"),  # a name
    ],
)
def test_the_sign_in_is_the_sites_own(
    settings: Any, urlconf: Any, login_url: str, expected: str
) -> None:
    settings.ROOT_URLCONF = urlconf
    settings.LOGIN_URL = login_url
    assert addresses.sign_in() == expected
