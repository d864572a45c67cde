"""What the streams of one pool share: how requests are placed, who is told of it, and how much may be kept at once.

Overload: where the pool has a concurrency cap and none of the pods a request may go to works and is below it, requests that
may wait are refused with 429; all others are placed, and wait at the pod. Which may wait is said by name: the
InferenceObjective a request names, or its workload class, against the names given at the start. What priority an
InferenceObjective has is not known here.
"""

import time
from collections.abc import Callable
from typing import Final

from ralb_api import headers as names
from ralb_api.errors import ClientError
from ralb_extproc.decision import Decision
from ralb_extproc.epp.stream import PickerStream
from ralb_extproc.epp.subset import Subset
from ralb_extproc.feedback import Outcome
from ralb_extproc.protocol import METHOD
from ralb_extproc.request import PATHS
from ralb_extproc.router import Router
from ralb_extproc.wire import Server

_SAYS_WHAT_IT_IS: Final = (*names.OBJECTIVE_HEADERS, names.WORKLOAD_CLASS)


class Room:
    """Bytes of unfinished request bodies, over all streams.

    Args:
        limit: most bytes.

    Attributes:
        taken: bytes now kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self, size: int) -> bool:
        """Take some; False, and nothing taken, if there is not so much left."""
        if self.taken + size > self._limit:
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.taken -= size


class Picker:
    """Places the requests of one pool.

    Args:
        pool: pool id.
        router: understanding, placement, pods.
        on_decision: told of every decision, refusals included.
        on_outcome: told of how every request ended.
        room: shared by all pickers of the process.
        max_body_bytes: largest request body.
        sheddable: names of InferenceObjectives and workload classes whose requests may wait.
    """

    def __init__(
        self,
        pool: str,
        router: Router,
        on_decision: Callable[[Decision], None],
        on_outcome: Callable[[Outcome], None],
        *,
        room: Room,
        max_body_bytes: int,
        sheddable: frozenset[str] = frozenset(),
    ) -> None:
        self.pool = pool
        self.room = room
        self.max_body_bytes = max_body_bytes
        self._router = router
        self._on_decision = on_decision
        self._on_outcome = on_outcome
        self._sheddable = sheddable

    def is_ready(self) -> bool:
        """Whether the pool is in the snapshot."""
        table = self._router.table
        return table is not None and self.pool in table.pools

    def add_to(self, server: Server) -> None:
        """Register with a server."""
        server.add(METHOD, lambda call: PickerStream(self, call))

    def path_of(self, path: str) -> str:
        """The path without its query; of an API path that is known, without what a route may have put before it."""
        path = path.partition("?")[0]
        return next((known for known in PATHS if path.endswith(known)), path)

    def pick(self, path: str, headers: dict[str, str], body: bytes | None, subset: Subset | None) -> Decision:
        """Place a request; see ``Router.pick``. ``decided`` is to follow."""
        start = time.perf_counter()
        sheddable = bool(self._sheddable) and any(headers.get(name) in self._sheddable for name in _SAYS_WHAT_IT_IS)
        if headers.get(":method") != "POST":
            body = None
        decision = self._router.pick(self.pool, path, headers, body, only=subset, sheddable=sheddable)
        decision.stages["total"] = time.perf_counter() - start
        return decision

    def decided(self, decision: Decision) -> None:
        """A request was placed."""
        self._on_decision(decision)

    def refused(self, path: str, error: ClientError, decision: Decision | None) -> None:
        """A request was refused; before it was decided if there is no decision."""
        if decision is None:
            decision = self._router.open(path)
            decision.error = error
        self._on_decision(decision)
        # Under no id: a client may use one again that a request in flight has.
        self._on_outcome(Outcome(path=path, status=error.status, ended=time.time()))

    def first_token(self, decision_id: str) -> None:
        """The answer's body has begun."""
        self._router.pods.first_token(decision_id)

    def settle(self, outcome: Outcome) -> None:
        """A placed request is over."""
        self._on_outcome(outcome)
