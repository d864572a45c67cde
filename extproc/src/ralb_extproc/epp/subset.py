"""The subset hint: which endpoints a gateway allows for one request.

It comes as a list of strings, or as one string of them with commas, under ``envoy.lb.subset_hint``. Implementations differ
in what they read of it; here both forms count, and ports are honoured: ``10.0.0.1:8000`` is that port only, ``10.0.0.1`` any
port of it. Trap: a hint that is there and names nobody means nobody. Only an absent one means everybody.
"""

from ipaddress import ip_address
from typing import Any

from ralb_api.headers import METADATA_SUBSET, METADATA_SUBSET_KEY


class Subset:
    """The allowed endpoints, as a container of ``ip:port`` addresses."""

    __slots__ = ("_addresses", "_hosts")

    def __init__(self, addresses: frozenset[str], hosts: frozenset[str]) -> None:
        self._addresses = addresses
        self._hosts = hosts

    def __contains__(self, address: object) -> bool:
        return isinstance(address, str) and (
            address in self._addresses or (bool(self._hosts) and _split(address)[0] in self._hosts)
        )


def subset_of(metadata: Any) -> Subset | None:
    """The hint in an ``envoy.config.core.v3.Metadata``; None if there is none.

    A value of a wrong kind, and entries that are no addresses, allow nobody.
    """
    if METADATA_SUBSET not in metadata.filter_metadata:
        return None
    fields = metadata.filter_metadata[METADATA_SUBSET].fields
    if METADATA_SUBSET_KEY not in fields:
        return None
    value = fields[METADATA_SUBSET_KEY]
    kind = value.WhichOneof("kind")
    said: list[str] = []
    if kind == "string_value":
        said = value.string_value.split(",")
    elif kind == "list_value":
        said = [part for item in value.list_value.values for part in item.string_value.split(",")]
    addresses: set[str] = set()
    hosts: set[str] = set()
    for entry in said:
        host, port = _split(entry.strip())
        if host:
            (addresses if port else hosts).add(f"{host}:{port}" if port else host)
    return Subset(frozenset(addresses), frozenset(hosts))


def _split(address: str) -> tuple[str, str]:
    """(host as addresses write it, port or ""); ("", "") for what is no address."""
    host, separator, port = address.rpartition(":")
    if not separator or (":" in host and not host.endswith("]")):
        host, port = address, ""
    bare = host.removeprefix("[").removesuffix("]")
    if ":" not in bare:
        return host, port
    try:
        return f"[{ip_address(bare)}]", port
    except ValueError:
        return "", ""
