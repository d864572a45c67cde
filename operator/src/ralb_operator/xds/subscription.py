"""What one client asked for and has of one type: one subscription of a delta discovery stream, without I/O.

Order between types may not enter; that is ``delta``'s. A client rejects a response as a whole. One with several resources is
therefore sent again in parts (those its error message names apart from the rest, else halves) until the culprit is alone; that
one is not sent again before its content changes, unless the client asks for it.

Trap: a client may have applied some resources of a response it rejected: what it has of them is unknown, not the old version.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from ralb_operator.xds.resources import CLUSTER, LISTENER, SECRET, Resource

WITHHELD: Final = "(its words are withheld: they may quote the secret; Envoy's own log has them)"
_WILDCARD: Final = "*"
# Types for which an empty first subscription means "all"; for others it means "nothing yet".
_EMPTY_MEANS_ALL: Final = frozenset({CLUSTER, LISTENER})


class ProtocolError(Exception):
    """The client does what no valid client does; the stream must end with this message."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one stream.

    Attributes:
        response_bytes, response_resources: a response holds no more (one bigger resource goes alone).
        names: subscribed or initially known names per type.
        types: resource types per stream.
        name_chars, message_chars: longer names are refused, longer error messages cut.
    """

    response_bytes: int = 2 * 1024 * 1024
    response_resources: int = 1000
    names: int = 100_000
    types: int = 32
    name_chars: int = 1024
    message_chars: int = 4096


@dataclass(frozen=True, slots=True)
class Nack:
    """A client refused a resource and keeps what it had.

    Attributes:
        node: node id of the client.
        type_url, name: the resource; the name is empty if the client refused an empty response.
        version: the refused version; None if it refused the removal.
        message: the client's own words; of a secret ``WITHHELD``.
        nonce: of the refused response.
        at: unix time in seconds.
    """

    node: str
    type_url: str
    name: str
    version: str | None
    message: str
    nonce: str
    at: float


@dataclass(frozen=True, slots=True)
class Published:
    """What the server serves of one type.

    Attributes:
        resources: by name.
        prune: tell clients to drop what is not in ``resources``; False holds such removals back.
    """

    resources: Mapping[str, Resource]
    prune: bool = True


@dataclass(frozen=True, slots=True)
class _InFlight:
    nonce: str
    items: Mapping[str, str | None]  # name -> version sent; None = removal


class Subscription:
    """What one client asked for and has of one type."""

    __slots__ = (
        "_adds",
        "_force",
        "_isolate",
        "_limits",
        "_owes_answer",
        "_published",
        "_removals",
        "_started",
        "_unsure",
        "has",
        "in_flight",
        "nacks",
        "names",
        "type_url",
        "wildcard",
    )

    def __init__(self, type_url: str, published: Published | None, limits: Limits) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        # Last version it accepted; None = it was told that there is no such resource; "" = maybe it has one.
        self.has: dict[str, str | None] = {}
        self.nacks: dict[str, Nack] = {}
        self.in_flight: _InFlight | None = None
        self._published = published
        self._limits = limits
        self._started = False
        self._owes_answer = False
        self._unsure: set[str] = (
            set()
        )  # part of a rejected response: the client may have the version in it all the same
        self._force: set[str] = set()  # asked for again: send whatever the client has
        self._adds: set[str] = set()  # to be sent, or answered as absent
        self._removals: set[str] = set()  # the client has it and must drop it
        self._isolate: deque[list[str]] = deque()  # parts of a rejected response, each to be sent on its own

    @property
    def adding(self) -> bool:
        """Something to add is unsent or unanswered."""
        return self._published is not None and (self.in_flight is not None or bool(self._adds) or self._owes_answer)

    @property
    def removing(self) -> bool:
        """A removal is due and not held back."""
        return bool(self._removals) and self._published is not None and self._published.prune

    @property
    def settled(self) -> bool:
        """The client has answered everything there is to say at present."""
        return not self.adding and not self.removing

    def update(self, published: Published, changed: Iterable[str]) -> None:
        """The server serves something else now; ``changed`` names every resource that differs."""
        if self._published is None:
            changed = {*published.resources, *self.names, *self.has}
        self._published = published
        for name in changed:
            self._refresh(name)

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest, node: str, now: float) -> list[Nack]:
        """Take one request of this type; returns the resources found to be refused by it."""
        nacks = self._answered(request, node, now)
        subscribe, unsubscribe = list(request.resource_names_subscribe), list(request.resource_names_unsubscribe)
        first, self._started = not self._started, True
        touched: set[str] = set()
        if first:
            known = request.initial_resource_versions
            self._check(known)
            if _WILDCARD in subscribe or (not subscribe and self.type_url in _EMPTY_MEANS_ALL):
                self._all(known, touched)
            wanted = known if self.wildcard else (name for name in subscribe if name in known)
            for name in wanted:
                self.has[name] = known[name]
                touched.add(name)
        self._check(subscribe)
        for name in subscribe:
            if name == _WILDCARD:
                if not first:
                    again: set[str] = set()
                    self._all({}, again)
                    self._force |= again
                    touched |= again
                continue
            self.names.add(name)
            touched.add(name)
            if not (first and name in self.has):
                self._force.add(name)
        for name in unsubscribe:
            if name == _WILDCARD:
                self.wildcard = False
                touched.update(self.has)
                touched.update(self._adds)
            elif name in self.names:
                self.names.discard(name)
                touched.add(name)
                if self.wildcard:
                    self._force.add(name)  # it must learn whether the wildcard still covers the name
        if len(self.names) > self._limits.names:
            raise ProtocolError(f"more than {self._limits.names} names subscribed of {self.type_url}")
        for name in touched:
            self._refresh(name)
        return nacks

    def resend(self, names: Iterable[str]) -> None:
        """Send these again, if they are subscribed and exist."""
        for name in names:
            exists = self._published is not None and name in self._published.resources
            if exists and (self.wildcard or name in self.names):
                self._force.add(name)
                self._refresh(name)

    def take(self, nonce: str, removals: bool) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """The next response under ``nonce``, now in flight; None if there is nothing to say or one is in flight."""
        if self.in_flight is not None or self._published is None:
            return None
        removals = removals and self.removing
        group = self._isolated(removals)
        isolating = bool(group)
        if not group:
            group = sorted(self._adds) or (sorted(self._removals) if removals else [])
            if not group and not self._owes_answer:
                return None
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=self.type_url, nonce=nonce)
        response.control_plane.identifier = "ralb"
        items: dict[str, str | None] = {}
        size = 0
        for name in group:
            resource = self._published.resources.get(name)
            size += len(name) + (len(resource.body) if resource else 0) + 96
            if items and (size > self._limits.response_bytes or len(items) >= self._limits.response_resources):
                break
            if resource is None:
                response.removed_resources.append(name)
            else:
                entry = response.resources.add(name=name, version=resource.version)
                entry.resource.type_url = resource.type_url
                entry.resource.value = resource.body
            items[name] = resource.version if resource else None
        if isolating and len(items) < len(group):
            self._isolate.appendleft(group[len(items) :])
        self._force.difference_update(items)
        self._adds.difference_update(items)
        self._removals.difference_update(items)
        self._owes_answer = False
        self.in_flight = _InFlight(nonce, items)
        return response

    def _isolated(self, removals: bool) -> list[str]:
        """The next part of a rejected response that may be sent now; parts that are no longer due are dropped."""
        group: list[str] = []
        kept: deque[list[str]] = deque()
        for part in self._isolate:
            later = [name for name in part if name in self._adds or name in self._removals]
            if not group:
                group = [name for name in later if removals or name in self._adds]
                later = [name for name in later if not removals and name not in self._adds]
            if later:
                kept.append(later)
        self._isolate = kept
        return group

    def _check(self, names: Iterable[str]) -> None:
        for count, name in enumerate(names, 1):
            if count > self._limits.names:
                raise ProtocolError(f"more than {self._limits.names} names in one request for {self.type_url}")
            if not name or len(name) > self._limits.name_chars:
                raise ProtocolError(
                    f"resource names of {self.type_url} must have 1 to {self._limits.name_chars} characters, not {len(name)}"
                )

    def _all(self, known: Mapping[str, str], touched: set[str]) -> None:
        """Subscribe to everything. A client that has nothing waits for an answer, even an empty one."""
        self.wildcard = True
        self._owes_answer = not known
        if self._published is not None:
            touched.update(self._published.resources)

    def _answered(self, request: discovery_pb2.DeltaDiscoveryRequest, node: str, now: float) -> list[Nack]:
        """Settle what is in flight if this request answers it; other nonces are stale and say nothing."""
        if self.in_flight is None or request.response_nonce != self.in_flight.nonce:
            return []
        sent, self.in_flight = self.in_flight, None
        nacks: list[Nack] = []
        if not request.HasField("error_detail"):
            self.nacks.pop("", None)
            for name, version in sent.items.items():
                self.has[name] = version
                self.nacks.pop(name, None)
                self._unsure.discard(name)
        else:
            message = request.error_detail.message[: self._limits.message_chars]
            if len(sent.items) > 1:
                for name in sent.items:
                    self.has.setdefault(name, "")
                self._unsure.update(sent.items)
                self._isolate.extend(_parts(list(sent.items), message))
            else:
                name, version = next(iter(sent.items.items()), ("", None))
                # Words about a secret may quote it, and from here they go to logs and statuses.
                words = WITHHELD if self.type_url == SECRET else message
                nack = Nack(node, self.type_url, name, version, words, sent.nonce, now)
                nacks.append(nack)
                self.nacks[name] = nack
        for name in sent.items:
            self._refresh(name)
        return nacks

    def _refresh(self, name: str) -> None:
        """Decide anew what is to be said about one name, and forget what is no longer worth knowing."""
        self._adds.discard(name)
        self._removals.discard(name)
        named = name in self.names
        if not named and not self.wildcard:
            self.has.pop(name, None)
            self.nacks.pop(name, None)
            self._force.discard(name)
            self._unsure.discard(name)
            return
        if self._published is None:
            return
        resource = self._published.resources.get(name)
        target = resource.version if resource else None
        nack = self.nacks.get(name)
        if nack is not None and nack.version != target:
            del self.nacks[name]
            nack = None
        if target is None and not named and self.has.get(name, "") is None:
            del self.has[name]  # gone, and only the wildcard covered it
        if name not in self._force and (nack is not None or self._up_to_date(name, target, named)):
            return
        # Only what the client holds can be removed; "there is no such thing" is an answer, and answers are not held back.
        (self._removals if target is None and self.has.get(name) is not None else self._adds).add(name)

    def _up_to_date(self, name: str, target: str | None, named: bool) -> bool:
        if name not in self.has:
            return target is None and not named
        return self.has[name] == target and name not in self._unsure


def _parts(names: list[str], message: str) -> list[list[str]]:
    """Split a rejected response: what the message does not name apart from what it names, else in halves."""
    named = [name for name in names if name in message]
    if named and len(named) < len(names):
        return [[name for name in names if name not in set(named)], named]
    middle = len(names) // 2
    return [names[:middle], names[middle:]]
