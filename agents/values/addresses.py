"""Which IP addresses are public, and which others an operator allows.

A user's address could point into the network that an agent runs in, at a database or at a cloud's
metadata service. This module opens no connection and asks no DNS.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["NOTHING", "PUBLIC", "AllowList", "Reach", "is_public", "literal_addresses"]

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not public, although ``is_global`` says so in some versions of Python.
_SPECIAL = [
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; Alibaba's metadata service
        "168.63.129.16/32",  # Azure's own service for its virtual machines
        "192.0.0.0/24",  # protocol assignments, RFC 6890; Oracle's metadata service
        "192.88.99.0/24",  # relays to 6to4, RFC 7526
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "224.0.0.0/3",  # multicast and reserved
        "2001::/23",  # protocol assignments, RFC 2928, Teredo among them
        "2001:db8::/32",  # documentation, RFC 3849
        "3fff::/20",  # documentation, RFC 9637
    )
]
_UNICAST_V6 = ipaddress.ip_network("2000::/3")  # the only range assigned as global, RFC 4291
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits, RFC 6052

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label: an IPv4 address in some spelling


def is_public(address: str) -> bool:
    """Return whether an IP address, as text, is reachable from anywhere on the internet.

    An IPv4 address embedded in an IPv6 one (mapped, 6to4, NAT64) decides for it.

    Raises:
        ValueError: it is not an IP address.
    """
    ip = _parse(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.sixtofour
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip not in _UNICAST_V6:
            return False
    return ip.is_global and not any(ip in network for network in _SPECIAL)


def literal_addresses(host: str) -> list[str]:
    """Return the address that a host is by its spelling alone; none if it is a name.

    ``0x7f.1``, ``2130706433`` and ``127.0.0.1.`` are spellings of 127.0.0.1 for a resolver.
    ``localhost`` is loopback wherever it is looked up.
    """
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return ["127.0.0.1", "::1"]
    try:
        return [str(_parse(host))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except (OSError, UnicodeError):
        return []


class AllowList:
    """Hosts, addresses and networks that may be reached besides public addresses.

    Args:
        entries: ``intranet.example``, ``10.1.2.3``, ``10.0.0.0/8``, ``fd00::/8``, or ``*`` for all.

    Raises:
        ValueError: an entry is none of these; the message names it.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self.entries = tuple(entries)
        self.allows_all = "*" in self.entries
        self._hosts: set[str] = set()
        self._networks: list[_Network] = []
        for entry in self.entries:
            if entry != "*":
                self._add(entry)

    def _add(self, entry: str) -> None:
        text = entry.strip().lower().rstrip(".")
        text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            self._networks.append(ipaddress.ip_network(text))
            return
        except ValueError as error:
            if "has host bits set" in str(error):
                raise ValueError(f"{entry!r} has bits set after its prefix") from error
        is_host = _HOST.fullmatch(text) and not _NUMBER.fullmatch(text.rpartition(".")[2])
        if not is_host or len(text) > 253:
            raise ValueError(f"{entry!r} is no host, address or network (without port and path)")
        self._hosts.add(text)

    def admit(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Return those of a host's addresses that may be connected to; none refuses the host.

        A host with public and private addresses is refused: such an answer of the DNS is odd. But
        if the list names one of them, the others are left out: ``localhost`` may also be ``::1``.
        """
        if self.allows_all or host.lower().rstrip(".") in self._hosts:
            return list(addresses)
        named = [address for address in addresses if self._names(address)]
        others = [a for a in addresses if a not in named and is_public(a)]
        if not named and len(others) < len(addresses):
            return []
        return named + others

    def has(self, host: str) -> bool:
        """Return whether the list itself has a host, by its name or its address; asks no DNS."""
        if self.allows_all or host.lower().rstrip(".") in self._hosts:
            return True
        return any(self._names(address) for address in literal_addresses(host))

    def _names(self, address: str) -> bool:
        ip = _parse(address)
        return any(ip in network for network in self._networks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllowList) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"AllowList({list(self.entries)!r})"


NOTHING = AllowList()


@dataclass(frozen=True, slots=True)
class Reach:
    """What the requests of ``tools.http`` may reach, and through which proxy."""

    allow: AllowList = NOTHING
    proxy_url: str = field(default="", repr=False)  # it may hold a password


PUBLIC = Reach()


def _parse(address: str) -> _Address:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
