"""What an operator allows besides public addresses."""

from __future__ import annotations

import pytest

from agents.values.addresses import AllowList, literal_addresses

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    ("entries", "host", "addresses", "admitted"),
    [
        ([], "example.org", [PUBLIC], [PUBLIC]),
        ([], "intranet", ["10.0.0.1"], []),
        ([], "mixed", [PUBLIC, "10.0.0.1"], []),
        (["*"], "intranet", ["10.0.0.1"], ["10.0.0.1"]),
        (["intranet"], "INTRANET.", ["10.0.0.1"], ["10.0.0.1"]),
        (["Intranet."], "intranet", ["10.0.0.1"], ["10.0.0.1"]),
        (["intranet"], "other.intranet", ["10.0.0.1"], []),
        (["10.0.0.1"], "intranet", ["10.0.0.1"], ["10.0.0.1"]),
        (["10.0.0.0/8"], "intranet", ["10.9.9.9"], ["10.9.9.9"]),
        (["10.0.0.0/8"], "intranet", ["11.0.0.1", "192.168.0.1"], []),
        (["10.0.0.0/8"], "mapped", ["::ffff:10.0.0.1"], ["::ffff:10.0.0.1"]),
        (["fd00::/8"], "six", ["fd00::1"], ["fd00::1"]),
        (["[::1]"], "six", ["::1"], ["::1"]),
        (["127.0.0.1"], "localhost", ["::1", "127.0.0.1"], ["127.0.0.1"]),
        (["fe80::/10"], "link", ["fe80::1%eth0"], ["fe80::1%eth0"]),
    ],
)
def test_what_is_named_or_public_is_admitted(
    entries: list[str], host: str, addresses: list[str], admitted: list[str]
) -> None:
    assert AllowList(entries).admit(host, addresses) == admitted


@pytest.mark.parametrize(
    "entry",
    [
        *("", " ", "http://intranet", "intranet:8000", "127.0.0.1:80", "10.0.0.0/33", "10.1.2.3/8"),
        *(
            "a b",
            "127.1",
            "0x7f.1",
            "2130706433",
            "300.1.1.1",
            "*.intranet",
            "-x",
            "ho/st",
            "::1::",
        ),
        *("bücher.example", "[10.0.0.1", "x" * 64, "user@host"),
    ],
)
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no host|has bits set"):
        AllowList([entry])


@pytest.mark.parametrize(
    "spelling",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "127.0.0.1.", "0X7F.1"],
)
def test_every_spelling_of_an_address_is_known(spelling: str) -> None:
    assert literal_addresses(spelling) == ["127.0.0.1"]


@pytest.mark.parametrize("name", ["example.org", "localhost.example", "x127.0.0.1", ""])
def test_a_name_is_no_address(name: str) -> None:
    assert literal_addresses(name) == []


def test_localhost_is_loopback_wherever_it_is_looked_up() -> None:
    assert literal_addresses("a.LOCALHOST.") == ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("entries", "host", "is_there"),
    [
        (["intranet.example"], "Intranet.Example.", True),
        (["intranet.example"], "sub.intranet.example", False),
        (["intranet.example"], "example.org", False),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["127.0.0.0/8"], "localhost", True),
        (["*"], "example.org", True),
        ([], "example.org", False),
    ],
)
def test_a_list_has_what_it_names_and_no_other_public_host(
    entries: list[str], host: str, is_there: bool
) -> None:
    assert AllowList(entries).has(host) is is_there
