"""The delta xDS protocol of one ADS stream, as a state machine without I/O.

Bytes, sockets, clocks and tasks may not enter: requests go in by ``receive``, responses come out of ``next_response``, and
whoever owns the stream moves them. Protocol: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
(incremental variant). What the protocol leaves open is decided here and in ``subscription``:

* One response per type is in flight; what changes meanwhile is coalesced into the next one.
* Make before break holds per stream, however late a client answers: listeners and routes wait until everything they may
  refer to is acknowledged, and nothing is removed while anything is still to be added.

Trap: Envoy withholds the ACK of clusters until they are warm, so endpoints must never wait for that ACK, and those of a
changed cluster are sent again after it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ORDER, ROUTES, SECRET
from ralb_operator.xds.subscription import Limits, Nack, ProtocolError, Published, Subscription
from ralb_operator.xds.warming import endpoints_of

_USED: Final = frozenset({SECRET, CLUSTER, ENDPOINTS})
_USERS: Final = frozenset({LISTENER, ROUTES})
# Endpoints and secrets are asked for only where a cluster refers to them.
_NEEDED: Final = frozenset({CLUSTER, LISTENER, ROUTES})


class DeltaStream:
    """All subscriptions of one ADS stream."""

    def __init__(self, published: Mapping[str, Published], limits: Limits | None = None) -> None:
        """``published`` is what the server serves now, by type URL; types it lacks are not answered until published."""
        self.node = ""
        self.subscriptions: dict[str, Subscription] = {}
        self._published = dict(published)
        self._limits = limits or Limits()
        self._nonce = 0

    def publish(self, type_url: str, published: Published, changed: Iterable[str]) -> None:
        """Serve ``published`` from now on; ``changed`` names every resource that differs from before."""
        self._published[type_url] = published
        subscription = self.subscriptions.get(type_url)
        if subscription is not None:
            subscription.update(published, changed)

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest, now: float) -> list[Nack]:
        """Take one request at unix time ``now``; returns the refusals it settles.

        Raises:
            ProtocolError: no valid client sends this.
        """
        if not self.node:
            if not request.node.id:
                raise ProtocolError("the first request of a stream must carry node.id")
            if len(request.node.id) > self._limits.name_chars:
                raise ProtocolError(f"node.id is longer than {self._limits.name_chars} characters")
            self.node = request.node.id
        if request.resource_locators_subscribe or request.resource_locators_unsubscribe:
            raise ProtocolError("resource locators (xdstp) are not supported; subscribe by name")
        type_url = request.type_url
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            if not type_url or len(type_url) > self._limits.name_chars:
                raise ProtocolError("a request must carry a type_url")
            if len(self.subscriptions) >= self._limits.types:
                raise ProtocolError(f"more than {self._limits.types} resource types on one stream")
            subscription = Subscription(type_url, self._published.get(type_url), self._limits)
            self.subscriptions[type_url] = subscription
        return subscription.receive(request, self.node, now)

    def next_response(self) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """The next response to send, or None until something arrives or is published."""
        in_order = sorted(self.subscriptions.values(), key=_rank)
        used_adding = any(s.adding for s in in_order if s.type_url in _USED)
        nonce = str(self._nonce + 1)
        response = None
        for subscription in in_order:
            if subscription.type_url in _USERS and used_adding:
                continue
            response = subscription.take(nonce, removals=False)
            if response is not None:
                break
        else:
            if not any(subscription.adding for subscription in in_order):
                for subscription in reversed(in_order):
                    response = subscription.take(nonce, removals=True)
                    if response is not None:
                        break
        if response is not None:
            self._nonce += 1
            if response.type_url == CLUSTER:
                self._warm(response)
        return response

    def _warm(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        """Send the endpoints of these clusters after them, even to a client that has them: see ``warming``."""
        endpoints, clusters = self.subscriptions.get(ENDPOINTS), self._published[CLUSTER].resources
        if endpoints is not None:
            names = (endpoints_of(clusters[entry.name]) for entry in response.resources)
            endpoints.resend(name for name in names if name is not None)

    def settled(self, type_urls: Iterable[str]) -> bool:
        """The client has answered everything published of these types (also true of what it never asked for)."""
        return all(self.subscriptions[t].settled for t in type_urls if t in self.subscriptions)

    @property
    def complete(self) -> bool:
        """The client has asked for everything an Envoy needs to serve, and answered all that is published."""
        asked = all(type_url in self.subscriptions for type_url in _NEEDED)
        return asked and all(subscription.settled for subscription in self.subscriptions.values())

    def nacks(self) -> list[Nack]:
        """Refusals in force: of versions that are still the ones served."""
        return [nack for subscription in self.subscriptions.values() for nack in subscription.nacks.values()]


def _rank(subscription: Subscription) -> tuple[int, str]:
    order = ORDER.index(subscription.type_url) if subscription.type_url in ORDER else len(ORDER)
    return order, subscription.type_url
