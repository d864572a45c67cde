"""The prefill legs under way: run, bounded, charged until they end, and counted.

A leg of the processor's own (connector NIXL) is a task of the event loop; it ends with an answer, a failure, the time limit, or
the client going away, and its load leaves the prefill pod with it. A leg of a sidecar is not seen: it counts for as long as it
was expected to take, and the request's outcome tells whether it went well.

Nothing is retried: another prefill pod would cost the client the wait again, while the decode pod can always compute the prompt.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ralb_extproc.feedback import POD_FAILURES, Outcome
from ralb_extproc.place import PodTable
from ralb_extproc.place.disaggregate import leg_id
from ralb_extproc.prefill.body import leg_body, read_answer
from ralb_extproc.prefill.client import LegError, PrefillClient
from ralb_extproc.types import Handoff, HandoffReason

_LOG = logging.getLogger(__name__)
MAX_LEGS: Final = 512
_MAX_SIDECARS: Final = 50_000
_MIN_HIT_TOKENS: Final = 64
# A sidecar's leg that is not seen counts this many times its expected time.
_UNSEEN: Final = 2.0
_UNSEEN_MIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg to run.

    Attributes:
        decision_id: of the request.
        handoff: where.
        path: of the API.
        fields: the body as it would go upstream.
        request_id: shared by both legs.
    """

    decision_id: str
    handoff: Handoff
    path: str
    fields: Mapping[str, Any]
    request_id: str


# How a leg of a request ended: why, its ``kv_transfer_params`` if it went well, and its seconds.
Ended = Callable[[HandoffReason, Mapping[str, Any] | None, float], None]


class Legs:
    """Runs legs.

    Args:
        pods: where they are charged, and pods are blamed.
        limit: most legs at once.
        client: speaks to prefill pods.
        clock: monotonic seconds, the table's clock.

    Attributes:
        running: legs under way by prefill pool.
        tokens: their uncached prompt tokens by prefill pool.
    """

    def __init__(
        self,
        pods: PodTable,
        *,
        limit: int = MAX_LEGS,
        client: PrefillClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self._pods = pods
        self._limit = limit
        self._client = client or PrefillClient()
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        # decision id -> (slot, generation) of the prefill pod its sidecar was told
        self._sidecars: dict[str, tuple[int, int]] = {}

    @property
    def full(self) -> bool:
        """No further leg may be started."""
        return len(self._tasks) >= self._limit

    def start(self, leg: Leg, ended: Ended) -> asyncio.Task[None]:
        """Run a leg that is charged already; ``ended`` is called once, unless the task is cancelled first."""
        task = asyncio.get_running_loop().create_task(self._run(leg, ended))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One that is cancelled before its first step runs nothing of ``_run``.
        task.add_done_callback(lambda _: self.release(leg.decision_id))
        return task

    def release(self, decision_id: str) -> None:
        """Take a leg's load off its pod."""
        self._pods.finish(leg_id(decision_id))

    async def close(self) -> None:
        """End all legs and connections."""
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._client.close()

    async def _run(self, leg: Leg, ended: Ended) -> None:
        handoff, began = leg.handoff, self._clock()
        pool, tokens = handoff.pool, handoff.uncached_tokens
        self.running[pool] += 1
        self.tokens[pool] += tokens
        reason, params = HandoffReason.ANSWER, None
        try:
            params = await self._ask(leg, began)
            reason = HandoffReason.REMOTE
        except LegError as error:
            reason = error.reason
            if error.blame:
                self._blame(leg)
        except ValueError:
            self._blame(leg)
        except Exception:
            _LOG.exception("a prefill leg on %s failed", handoff.endpoint)
        finally:
            self.running[pool] -= 1
            self.tokens[pool] -= tokens
            if not self.running[pool]:
                del self.running[pool], self.tokens[pool]
            self.release(leg.decision_id)
        ended(reason, params, self._clock() - began)

    async def _ask(self, leg: Leg, began: float) -> Mapping[str, Any]:
        handoff = leg.handoff
        data = await self._client.post(
            handoff.endpoint, leg.path, leg_body(leg.fields), leg.request_id, handoff.timeout
        )
        answer = read_answer(data)
        flight = self._pods.finish(leg_id(leg.decision_id))
        if flight is not None and self._pods.is_current(flight.slot, flight.generation):
            self._pods.succeed(flight.slot, self._clock())
            self._pods.learn_prefill(flight, self._clock() - began)
            hit = flight.info.hit_tokens
            if answer.cached_tokens is not None and hit >= _MIN_HIT_TOKENS:
                self._pods.learn_hits(flight.slot, hit, answer.cached_tokens)
        return answer.params

    def _blame(self, leg: Leg) -> None:
        flight = self._pods.ledger.get(leg_id(leg.decision_id))
        if flight is not None and self._pods.is_current(flight.slot, flight.generation):
            self._pods.fail(flight.slot, self._clock())

    # ---- legs of sidecars ----

    def told(self, decision_id: str, handoff: Handoff) -> None:
        """A decode pod's sidecar was told to have the prompt computed."""
        flight = self._pods.ledger.get(leg_id(decision_id))
        if flight is None:
            return
        if len(self._sidecars) >= _MAX_SIDECARS:
            self._sidecars.pop(next(iter(self._sidecars)))
        self._sidecars[decision_id] = (flight.slot, flight.generation)
        seconds = min(max(_UNSEEN * handoff.expected, _UNSEEN_MIN_S), handoff.timeout)
        asyncio.get_running_loop().call_later(seconds, self.release, decision_id)

    def settled(self, outcome: Outcome) -> None:
        """A request is over: if a sidecar had its prompt computed, its prefill pod is judged by how it went.

        Whether the decode pod or the prefill pod failed is not told apart, so both are blamed.
        """
        told = self._sidecars.pop(outcome.decision_id, None)
        if told is None:
            return
        slot, generation = told
        self.release(outcome.decision_id)
        if outcome.aborted or not self._pods.is_current(slot, generation):
            return
        if outcome.attempts > 1 or outcome.failure in POD_FAILURES:
            self._pods.fail(slot, self._clock())
        elif 200 <= outcome.status < 300:
            self._pods.succeed(slot, self._clock())
