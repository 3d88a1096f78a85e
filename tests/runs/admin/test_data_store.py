"""Entries of the data store in the admin: found, read, deleted, never edited."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from runs.admin import data_store
from runs.models import DataStoreEntry

from .conftest import signed_in, staff

pytestmark = pytest.mark.django_db

LIST = "/admin/runs/datastoreentry/"
HOSTILE = "<script>alert(1)</script>"


def keep(owner: User, key: str = "key", value: Any = 1, **fields: Any) -> DataStoreEntry:
    return DataStoreEntry.objects.create(
        **{"owner": owner, "namespace": "notes", "key": key, "value": value, **fields}
    )


def listed(client: Client, **query: str) -> list[str]:
    """Return the keys that are listed."""
    response = client.get(LIST, query)
    assert response.status_code == 200, response.content
    table = response.content.decode().partition('id="result_list"')[2].partition("</table>")[0]
    return re.findall(r'<th class="field-key"><a[^>]*>(.*?)</a>', table)


def shown_value(client: Client, key: str) -> str:
    page = client.get(LIST).content.decode()
    (line,) = [row for row in page.split("<tr>") if f">{key}</a>" in row]
    found = re.search(r'<td class="field-short_value">(.*?)</td>', line, re.DOTALL)
    assert found
    return found[1]


class TestTheList:
    def test_shows_short_values_whole_and_the_start_of_long_ones(
        self, operator_client: Client, alice: User
    ) -> None:
        keep(alice, "text", "déjà vu 🐢")
        keep(alice, "number", 41.5)
        keep(alice, "object", {"é": [1, None]})
        keep(alice, "nothing", None)
        keep(alice, "long", "é" * 5_000)
        keep(alice, "turtles", "🐢" * 5_000)
        assert shown_value(operator_client, "text") == "déjà vu 🐢"
        assert shown_value(operator_client, "number") == "41.5"
        assert shown_value(operator_client, "object") == "{&quot;é&quot;: [1, null]}"
        assert shown_value(operator_client, "nothing") == "null"
        long = shown_value(operator_client, "long")
        assert re.fullmatch("é{5,60}…", long)
        assert shown_value(operator_client, "turtles").startswith("🐢🐢")

    def test_does_not_read_large_values(self, operator_client: Client, alice: User) -> None:
        keep(alice, "large", "x" * 1_000_000)
        with CaptureQueriesContext(connection) as queries:
            page = operator_client.get(LIST).content
        assert len(page) < 100_000
        columns = '"runs_datastoreentry"."value"'
        for query in queries:
            assert f", {columns}," not in query["sql"]

    def test_takes_as_many_queries_for_many_as_for_one(
        self, operator_client: Client, alice: User
    ) -> None:
        def count() -> int:
            with CaptureQueriesContext(connection) as queries:
                assert listed(operator_client)
            return len(queries)

        keep(alice)
        for_one = count()
        for number in range(20):
            keep(User.objects.create_user(f"user{number}"), f"key{number}")
        assert count() == for_one


class TestFinding:
    @pytest.fixture(autouse=True)
    def entries(self, alice: User) -> None:
        bob = User.objects.create_user("bob")
        keep(alice, "first", "a green apple")
        keep(alice, "second", {"kind": "Ünïcode"}, namespace="drafts")
        keep(bob, "third", ["pears"])

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("seco", ["second"]),
            ("draft", ["second"]),
            ("bob", ["third"]),
            ("green apple", ["first"]),
            ("Ünïcode", ["second"]),
            ("nowhere", []),
        ],
    )
    def test_searches_names_and_values(
        self, operator_client: Client, query: str, found: list[str]
    ) -> None:
        assert listed(operator_client, q=query) == found

    def test_searches_the_newest_values_only_and_no_large_ones(
        self, operator_client: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(alice, "newest", "x" * data_store.MOST_VALUE_CHARACTERS + "needle")
        assert listed(operator_client, q="needle") == []
        monkeypatch.setattr(data_store, "NEWEST_VALUES", 1)
        assert listed(operator_client, q="green apple") == []

    def test_filters_by_owner_and_namespace(self, operator_client: Client) -> None:
        assert listed(operator_client, owner="bob") == ["third"]
        assert listed(operator_client, namespace="drafts") == ["second"]
        assert listed(operator_client, owner="bob", namespace="drafts") == []
        assert listed(operator_client, namespace="nul\0") == []

    def test_offers_a_few_of_many_namespaces_and_takes_any(
        self, operator_client: Client, alice: User
    ) -> None:
        for number in range(50):
            keep(alice, f"key{number}", namespace=f"space{number}")
        page = operator_client.get(LIST).content.decode()
        assert page.count("?namespace=") <= 8
        assert listed(operator_client, namespace="space37") == ["key37"]


class TestAnEntry:
    def test_shows_its_value_and_metadata(self, operator_client: Client, alice: User) -> None:
        entry = keep(alice, "list", [{"n": 1}, {"n": "é"}], metadata={"source": "a <b>page</b>"})
        page = operator_client.get(f"{LIST}{entry.pk}/change/").content.decode()
        value, metadata = (
            html.unescape(x) for x in re.findall("<pre[^>]*>(.*?)</pre>", page, re.S)
        )
        assert json.loads(value) == entry.value
        assert "é" in value
        assert json.loads(metadata) == entry.metadata
        assert "a &lt;b&gt;page&lt;/b&gt;" in page

    def test_that_is_large_is_cut_and_says_so(self, operator_client: Client, alice: User) -> None:
        entry = keep(alice, "large", "word " * 200_000)
        page = operator_client.get(f"{LIST}{entry.pk}/change/").content.decode()
        assert len(page) < 400_000
        assert "Only the first 100000 characters are shown." in page

    def test_with_hostile_content_is_inert(self, operator_client: Client, alice: User) -> None:
        entry = keep(
            alice, HOSTILE, {HOSTILE: HOSTILE}, namespace=HOSTILE, metadata={HOSTILE: HOSTILE}
        )
        for page in (LIST, f"{LIST}{entry.pk}/change/", f"{LIST}?namespace={HOSTILE}"):
            assert HOSTILE not in operator_client.get(page).content.decode()

    def test_cannot_be_edited_or_added(self, admin_client: Client, alice: User) -> None:
        entry = keep(alice)
        change = f"{LIST}{entry.pk}/change/"
        assert b'name="_save"' not in admin_client.get(change).content
        assert admin_client.post(change, {"key": "other"}).status_code == 403
        assert admin_client.get(f"{LIST}add/").status_code == 403
        entry.refresh_from_db()
        assert entry.key == "key"


class TestDeleting:
    def test_is_not_offered_to_operators(self, operator_client: Client, alice: User) -> None:
        entry = keep(alice)
        assert (
            "delete"
            not in operator_client.get(f"{LIST}{entry.pk}/change/").content.decode().lower()
        )
        assert operator_client.post(f"{LIST}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
        assert DataStoreEntry.objects.exists()

    def test_needs_djangos_permission_and_is_logged(self, alice: User) -> None:
        client = signed_in(staff("cleaner", "view_datastoreentry", "delete_datastoreentry"))
        one, two = keep(alice, "one"), keep(alice, "two")
        client.post(f"{LIST}{one.pk}/delete/", {"post": "yes"})
        form = {"action": "delete_selected", "_selected_action": [str(two.pk)], "post": "yes"}
        client.post(LIST, form)
        assert not DataStoreEntry.objects.exists()
        logged = LogEntry.objects.order_by("pk").values_list("action_flag", "object_repr")
        assert list(logged) == [(DELETION, "notes/one"), (DELETION, "notes/two")]


def test_without_the_permission_to_view_every_address_is_refused(alice: User) -> None:
    client = signed_in(staff("deleter", "delete_datastoreentry"))
    entry = keep(alice)
    assert client.get(LIST).status_code == 403
    for what in ("change", "delete"):
        assert client.get(f"{LIST}{entry.pk}/{what}/").status_code == 403
