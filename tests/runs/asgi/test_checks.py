"""The checks name what a site has forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import CheckMessage

from runs import asgi
from runs.asgi import checks

urlpatterns: list[Any] = []  # a site's that does not include ours


def found() -> list[CheckMessage]:
    return checks.check_installation(None)


def test_nothing_is_missing_here() -> None:
    assert found() == []


@pytest.mark.parametrize("name", ["runserver", "runworker"])
def test_another_apps_command_comes_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {**checks.get_commands(), name: "django.contrib.staticfiles"}
    monkeypatch.setattr(checks, "get_commands", lambda: commands)
    [error] = found()
    assert (error.id, f"manage.py {name}" in error.msg) == ("runs.E007", True)
    assert "'django.contrib.staticfiles'" in error.msg


@pytest.mark.parametrize("layers", [{}, {"other": {"BACKEND": "x"}}])
def test_there_is_no_channel_layer(layers: dict[str, Any], settings: Any) -> None:
    settings.CHANNEL_LAYERS = layers
    assert [error.id for error in found()] == ["runs.E009"]


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ({"BACKEND": "no.such.Layer"}, "'no.such.Layer'"),
        ({"BACKEND": "runs.delivery.redis_layer.RedisLayer"}, "'host'"),
        ({"BACKEND": "runs.delivery.redis_layer.RedisLayer", "CONFIG": {"hosts": []}}, "'hosts'"),
    ],
)
def test_the_channel_layer_can_t_be_made(layer: Any, why: str, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": layer}
    [error] = found()
    assert (error.id, why in error.msg) == ("runs.E009", True), error


def test_a_password_of_the_layer_is_not_told(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise ValueError("can't parse redis://user:pass-of-redis-4711@host:port/0")

    monkeypatch.setattr(checks.channel_layers, "make_backend", fail)
    [error] = found()
    assert (error.id, "ValueError: can't parse" in error.msg) == ("runs.E009", True)
    assert "pass-of-redis-4711" not in error.msg


def test_the_addresses_are_not_included(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    assert [error.id for error in found()] == ["runs.E010"]


def test_no_application_is_named(settings: Any) -> None:
    del settings.ASGI_APPLICATION
    assert [error.id for error in found()] == ["runs.E008"]


def test_the_application_can_t_be_imported(settings: Any) -> None:
    settings.ASGI_APPLICATION = "no_such_site.asgi.application"
    [error] = found()
    assert (error.id, "ModuleNotFoundError" in error.msg) == ("runs.E008", True)


def test_the_application_is_not_made_by_halting(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ASGI_APPLICATION = f"{__name__}.application"
    monkeypatch.setattr(asgi, "_made", [])
    [error] = found()
    assert error.id == "runs.E008"
    assert error.hint
    assert "get_asgi_application" in error.hint
