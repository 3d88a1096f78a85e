"""The addresses of the pages; included under ``/app/``."""

from __future__ import annotations

from django.urls import path

from . import agent, home, listing, run

urlpatterns = [
    path("", home.home, name="page-home"),
    path("agents/<str:name>/", agent.agent_page, name="page-agent"),
    path("runs/", listing.runs_page, name="page-runs"),
    path("runs/<uuid:id>/", run.run_page, name="page-run"),
    path("runs/<uuid:id>/stop", run.PageStopView.as_view(), name="page-stop"),
    path("runs/<uuid:id>/again", run.run_again, name="page-again"),
    path("runs/<uuid:id>/result", run.result_fragment, name="page-result"),
    path("runs/<uuid:id>/input", run.input_fragment, name="page-input"),
    path("runs/<uuid:id>/download/<str:what>", run.download, name="page-download"),
]
