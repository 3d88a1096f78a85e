"""Fields of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.form_page import (
    _UUID,
    FORM,
    REQUIRED,
    SHOWN,
    add_to,
    choose,
    error_of,
    field,
    fill_what_is_required,
    run_button,
    sent,
    tick,
)
from tests.support.server import Server


def test_what_was_not_touched_goes_as_it_is_shown(page: Page, server: Server) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    assert sent(page, server) == REQUIRED | SHOWN


def _plain_fields(page: Page) -> dict[str, Any]:
    field(page, "long_text").fill("one\ntwo")
    field(page, "word").fill("")
    field(page, "word").fill("xyz")
    field(page, "whole").fill(" 17 ")
    field(page, "share").fill(".25")
    field(page, "maybe_number").fill("-4")
    tick(page, "Is Loud")
    field(page, "answer").select_option("No")
    choose(page, "level", "high")
    field(page, "country").select_option("ch")
    field(page, "anything").fill('{"a": [1, null]}')
    return {
        "long_text": "one\ntwo",
        "word": "xyz",
        "whole": 17,
        "share": 0.25,
        "maybe_number": -4,
        "is_loud": True,
        "answer": False,
        "level": "high",
        "country": "ch",
        "anything": {"a": [1, None]},
    }


def _formats(page: Page) -> dict[str, Any]:
    field(page, "day").fill("2024-05-06")
    field(page, "instant").fill("2024-05-06T14:03")
    field(page, "time").fill("14:03")
    field(page, "pause").fill("PT1H30M")
    field(page, "homepage").fill("https://example.org/a?b=c")
    field(page, "id").fill(_UUID)
    field(page, "secret").fill("open sesame")
    assert field(page, "secret").get_attribute("type") == "password"
    return {
        "day": "2024-05-06",
        "instant": "2024-05-06T14:03+05:30",
        "time": "14:03",
        "pause": "PT1H30M",
        "homepage": "https://example.org/a?b=c",
        "id": _UUID,
        "secret": "open sesame",
    }


def _lists(page: Page) -> dict[str, Any]:
    for index, word in enumerate(("one", "two", "three")):
        add_to(page, "Words")
        field(page, f"words[{index}]").fill(word)
    expect(page.get_by_role("button", name="Add to Words")).to_be_disabled()
    page.get_by_role("button", name="Move Words 3 up").click()
    page.get_by_role("button", name="Remove Words 1").click()
    for colour in ("blue", "red"):
        field(page, "colours").get_by_role("checkbox", name=colour).check()
    add_to(page, "People")
    field(page, "people[0].name").fill("Bob")
    field(page, "people[0].email").fill("bob@example.org")
    return {
        "words": ["three", "two"],
        "colours": ["red", "blue"],
        "people": [{"name": "Bob", "email": "bob@example.org", "is_member": True}],
    }


def _groups(page: Page) -> dict[str, Any]:
    tick(page, "Helper")
    field(page, "helper.name").fill("Eve")
    field(page, "helper.email").fill("eve@example.org")
    field(page, "pet").select_option("Dog")
    add_to(page, "Tricks")
    field(page, "pet.tricks[0]").fill("sit")
    field(page, "pair[1]").fill("two")
    add_to(page, "Weights")
    page.get_by_label("Weights 1, name").fill("__proto__")
    field(page, "weights.__proto__").fill("1.5")
    return {
        "helper": {"name": "Eve", "email": "eve@example.org", "is_member": True},
        "pet": {"kind": "dog", "tricks": ["sit"]},
        "pair": [1, "two"],
        "weights": {"__proto__": 1.5},
    }


def _recursion(page: Page) -> dict[str, Any]:
    tick(page, "Tree")
    field(page, "tree.name").fill("root")
    field(page, "tree").get_by_role("button", name="Add to Children").click()
    field(page, "tree.children[0].name").fill("leaf")
    field(page, "tree").get_by_role("checkbox", name="Best").last.check()
    field(page, "tree.best.name").fill("best")
    leaf = {"name": "leaf", "children": []}
    return {"tree": {"name": "root", "children": [leaf], "best": {"name": "best", "children": []}}}


def _another_shape(page: Page) -> dict[str, Any]:
    shape = page.get_by_label("Either", exact=True)
    shape.select_option("Text")
    field(page, "either").fill("words")
    shape.select_option("List")
    add_to(page, "Either: List")
    field(page, "either[0]").fill("7")
    return {"either": [7]}


@pytest.mark.parametrize(
    "fill", [_plain_fields, _formats, _lists, _groups, _recursion, _another_shape]
)
def test_each_kind_of_field_arrives_as_its_json(
    page: Page, server: Server, fill: Callable[[Page], dict[str, Any]]
) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    expected = REQUIRED | SHOWN | fill(page)
    assert sent(page, server) == expected


def test_an_agent_without_parameters_has_only_run(page: Page, server: Server) -> None:
    page.goto("/app/agents/site-loop/")
    expect(page.locator("#agent-form")).to_contain_text("There is nothing to fill in.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    assert sent(page, server) == {}


# What is wrong is said beside its field.


#: path, what is typed, what is said about it
WRONG = [
    ("text", "", "Please fill this in."),
    ("person.name", "A", "At least 2 characters, please."),
    ("person.email", "ann", "An e-mail address is expected"),
    ("word", "lovely", "At most 5 characters, please; these are 6."),
    ("word", "A1", "This must match ^[a-z]+$"),
    ("whole", "0", "Between 1 and 5000, please."),
    ("whole", "1.5", "A whole number is expected."),
    ("whole", "many", "A whole number is expected."),
    ("share", "1", "Less than 1, please."),
    ("share", "0.33", "A multiple of 0.05, please."),
    ("share", "0,5", "A number is expected, such as 1.5."),
    ("maybe_number", "9007199254740993", "too large to be sent exactly"),
    ("pause", "soon", "A duration is expected"),
    ("homepage", "example", "An address is expected"),
    ("id", "1234", "A UUID is expected."),
    ("anything", "{", "This is not JSON."),
]


def test_the_browser_finds_what_the_server_would_refuse(page: Page, server: Server) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    for path, value, message in WRONG:
        before = field(page, path).input_value()
        field(page, path).fill(value)
        run_button(page).click()
        expect(field(page, path)).to_have_attribute("aria-invalid", "true")
        expect(error_of(page, path)).to_contain_text(message)
        expect(field(page, path)).to_be_focused()
        expect(run_button(page)).to_be_enabled()
        field(page, path).fill(before)
        expect(field(page, path)).not_to_have_attribute("aria-invalid", "true")
    assert sent(page, server) == REQUIRED | SHOWN  # not before


def test_several_errors_are_listed_and_vanish_as_they_are_mended(page: Page) -> None:
    page.goto(FORM)
    run_button(page).click()
    summary = page.locator(".form-summary")
    expect(summary).to_contain_text("4 fields need another look")
    expect(field(page, "text")).to_be_focused()
    summary.get_by_role("button", name="Person: Email").click()
    expect(field(page, "person.email")).to_be_focused()
    field(page, "person.email").fill("ann@example")
    expect(error_of(page, "person.email")).to_contain_text("An e-mail address is expected")
    field(page, "person.email").fill("ann@example.org")
    expect(field(page, "person.email")).not_to_have_attribute("aria-invalid", "true")
    expect(summary).to_contain_text("3 fields need another look")
    field(page, "text").fill("hello")
    field(page, "person.name").fill("Ann")
    expect(summary).to_be_hidden()  # one is left, and is told where it is
    expect(field(page, "colour")).to_have_attribute("aria-invalid", "true")


def test_nothing_is_said_before_the_first_attempt(page: Page) -> None:
    page.goto(FORM)
    field(page, "whole").fill("0")
    field(page, "text").focus()
    expect(page.locator(".field-error:visible")).to_have_count(0)
