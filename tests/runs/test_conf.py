"""Options: defaults, overrides, and secrets that must not be shown."""

from __future__ import annotations

from typing import Any

from agents.values.addresses import AllowList, Reach
from runs.conf import LLMOptions, Options, conf, unknown_names


def test_a_missing_option_has_its_default(settings: Any) -> None:
    settings.RUNS = {"LEASE_SECONDS": 4, "LLM": {"MODEL": "llama3"}}
    assert conf() == Options(lease_seconds=4, llm=LLMOptions(model="llama3"))


def test_options_follow_the_settings(settings: Any) -> None:
    settings.RUNS = {"MAX_CONCURRENT": 1}
    assert conf().max_concurrent == 1
    settings.RUNS = {"MAX_CONCURRENT": 2}
    assert conf().max_concurrent == 2


def test_the_settings_may_leave_out_runs(settings: Any) -> None:
    del settings.RUNS
    assert conf() == Options()


def test_the_key_is_never_shown(settings: Any) -> None:
    settings.RUNS = {"LLM": {"API_KEY": "hunter2"}}
    assert conf().llm.api_key == "hunter2"
    assert "hunter2" not in repr(conf())


def test_the_stand_in_answers_without_address_and_key() -> None:
    assert LLMOptions(model="llama3").is_stand_in
    assert not LLMOptions(base_url="http://127.0.0.1:11434/v1").is_stand_in
    assert not LLMOptions(api_key="key").is_stand_in


def test_an_unknown_option_is_reported_and_ignored(settings: Any) -> None:
    settings.RUNS = {"LEASE_SECOND": 4, "LLM": {"KEY": "x"}, "HTTP": {"DENY": []}}
    assert unknown_names(settings.RUNS) == ["LEASE_SECOND", "LLM.KEY", "HTTP.DENY"]
    assert conf() == Options()


def test_the_reach_of_agents_is_parsed_and_its_password_not_shown(settings: Any) -> None:
    settings.RUNS = {"HTTP": {"ALLOW": ["10.0.0.0/8"], "PROXY_URL": "http://u:hunter2@proxy"}}
    assert conf().http.reach == Reach(AllowList(["10.0.0.0/8"]), "http://u:hunter2@proxy")
    assert "hunter2" not in repr(conf()) + repr(conf().http.reach)


def test_the_token_of_metrics_is_an_option_or_the_setting_of_before(settings: Any) -> None:
    settings.METRICS_TOKEN = "hunter1"
    assert conf().metrics_token == "hunter1"
    settings.RUNS = {"METRICS_TOKEN": "hunter2"}
    assert conf().metrics_token == "hunter2"
    assert "hunter" not in repr(conf())
    settings.RUNS, settings.METRICS_TOKEN = {}, ""
    assert conf().metrics_token == ""
