"""The addresses of the pages; included under ``/app/``."""

from __future__ import annotations

from django.urls import path

from . import agent, downloads, fragments, listing, run, tokens

urlpatterns = [
    path("", listing.home, name="page-home"),
    path("agents/<str:name>/", agent.agent_page, name="page-agent"),
    path("tokens/", tokens.tokens_page, name="page-tokens"),
    path("tokens/<uuid:id>/revoke", tokens.revoke_token, name="page-revoke-token"),
    path("runs/", listing.runs_page, name="page-runs"),
    path("runs/<uuid:id>/", run.run_page, name="page-run"),
    path("runs/<uuid:id>/state", run.run_state, name="page-state"),
    path("runs/<str:id>/stop", run.PageStopView.as_view(), name="page-stop"),
    path("runs/<str:id>/again", run.RunAgainView.as_view(), name="page-again"),
    path("runs/<uuid:id>/result", fragments.result_fragment, name="page-result"),
    path("runs/<uuid:id>/input", fragments.input_fragment, name="page-input"),
    path("runs/<uuid:id>/receipt", fragments.receipt_fragment, name="page-receipt"),
    path("runs/<uuid:id>/download/<str:what>", downloads.download, name="page-download"),
]
