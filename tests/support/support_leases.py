"""An API server's Leases in memory, with optimistic concurrency and all that can go wrong on the way to it.

For many schedules in virtual time. It stands in for ``ApiClient``: only ``request`` is there.
"""

import asyncio
import contextlib
import copy
import random
from typing import Any

from ralb_operator.cluster.client import ApiError


class Leases:
    """All Leases.

    Attributes:
        stored: name -> Lease.
        writes: successful ones so far.
    """

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self._version = 0

    def handle(self, method: str, path: str, body: Any) -> Any:
        name = path.rpartition("/")[2]
        if method == "GET":
            if name not in self.stored:
                raise ApiError(404, "NotFound", name)
            return copy.deepcopy(self.stored[name])
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.stored:
                raise ApiError(409, "AlreadyExists", name)
        elif name not in self.stored:
            raise ApiError(404, "NotFound", name)
        elif body["metadata"].get("resourceVersion") != self.stored[name]["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", name)
        self._version += 1
        self.writes += 1
        stored = copy.deepcopy(body)
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.stored[name] = stored
        return copy.deepcopy(stored)


class Line:
    """One replica's way to the server; ``trouble`` is the share of requests that something happens to.

    Attributes:
        cut: while set, nothing gets through in either direction.
    """

    def __init__(self, server: Leases, rand: random.Random, trouble: float) -> None:
        self.server = server
        self.rand = rand
        self.trouble = trouble
        self.cut = False

    async def request(self, method: str, path: str, *, body: Any = None, timeout: float = 30.0, **_: Any) -> Any:  # noqa: ASYNC109
        there, back = (self._latency() for _ in range(2))
        lost = ApiError(0, "Timeout", "no answer")
        if self.cut or there >= timeout:
            # It may arrive long after we gave up.
            asyncio.get_running_loop().call_later(there, self._late, method, path, body)
            await asyncio.sleep(timeout)
            raise lost
        await asyncio.sleep(there)
        if self.rand.random() < self.trouble / 4:
            raise ApiError(500, "InternalError", "etcd is away")
        answer = self.server.handle(method, path, body)
        if self.cut or there + back >= timeout:
            await asyncio.sleep(timeout - there)
            raise lost
        await asyncio.sleep(back)
        return answer

    def _late(self, method: str, path: str, body: Any) -> None:
        if not self.cut and method != "GET":
            with contextlib.suppress(ApiError):
                self.server.handle(method, path, body)

    def _latency(self) -> float:
        if self.rand.random() < self.trouble:
            return self.rand.choice((0.5, 2.0, 4.9, 6.0, 20.0))
        return self.rand.uniform(0.001, 0.05)
