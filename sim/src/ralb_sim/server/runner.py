"""Real time for the engine: one task that steps it and shows each step's results when its duration has passed.

A step's duration times the time scale is waited for against a running deadline, so short sleeps do not add up: when the timer
is coarser than a step, several steps are made after each sleep, and their tokens reach a stream in one write. When the machine
is too slow to keep up by more than `MAX_LAG` seconds, the debt is dropped: the pod is then slower than its profile.
Metrics count times on the deadline's clock, which is real time free of the timer's jitter.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from ralb_sim.engine import Engine, StepResult
from ralb_sim.server.metrics import ServerMetrics
from ralb_sim.server.ticket import Ticket

MIN_SLEEP = 0.001
"""Shortest wait worth a timer, seconds."""

MAX_LAG = 0.5
"""Seconds the engine may run behind before it stops trying to catch up."""


class EngineRunner:
    """Runs one engine in real time.

    Args:
        engine: The engine; nothing else may step it.
        metrics: Where every event is counted.
        time_scale: Real seconds per simulated second.

    Attributes:
        slowdown: Factor on every step's duration (a fault).
        idle: Set while nothing is running or queued.
        stepped: Called when what a step did may be seen.
    """

    def __init__(self, engine: Engine, metrics: ServerMetrics, time_scale: float) -> None:
        self._engine = engine
        self._metrics = metrics
        self._scale = time_scale
        self.slowdown = 1.0
        self.stepped: Callable[[], None] | None = None
        self._tickets: dict[str, Ticket] = {}
        self._wake = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """Requests running or queued."""
        return len(self._tickets)

    def start(self) -> None:
        """Start stepping; call within a running loop."""
        self._task = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Stop stepping and fail whatever is still open."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for ticket in self._tickets.values():
            ticket.failed = True
            ticket.changed.set()
        self._tickets.clear()

    def add(self, tickets: Iterable[Ticket]) -> None:
        """Queue sequences.

        Raises:
            ValueError: The engine refuses one (see `Engine.add`); none after it is queued.
        """
        for ticket in tickets:
            self._engine.add(ticket.request)
            self.idle.clear()
            self._tickets[ticket.request.id] = ticket
            self._metrics.lora.queued(ticket.model)
        self._wake.set()

    def abort(self, tickets: Iterable[Ticket]) -> None:
        """Give up sequences whose client has gone, freeing their blocks; ended ones are left alone."""
        for ticket in tickets:
            if self._tickets.pop(ticket.request.id, None) is not None:
                self._engine.abort(ticket.request.id)
                self._metrics.aborted(ticket)
        if not self._engine.has_work:
            self._metrics.stats = self._engine.stats()
        if not self._tickets:
            self.idle.set()

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing is done, while anything runs."""
        done = self._engine.pool.clear()
        if self.stepped is not None:
            self.stepped()
        return done

    async def _run(self) -> None:
        deadline = 0.0
        while True:
            if not self._engine.has_work:
                self._metrics.stats = self._engine.stats()
                self._wake.clear()
                await self._wake.wait()
                deadline = time.monotonic()
            begin = deadline
            result = self._engine.step()
            deadline += result.duration_s * self._scale * self.slowdown
            self._begin(result, begin)
            lag = time.monotonic() - deadline
            if lag < 0:
                await asyncio.sleep(max(-lag, MIN_SLEEP))
            else:
                if lag > MAX_LAG:
                    deadline += lag
                # Others must run between steps however late we are.
                await asyncio.sleep(0)
            self._end(result, deadline)

    def _begin(self, result: StepResult, begin: float) -> None:
        for request_id, cached in result.admitted:
            ticket = self._tickets.get(request_id)
            if ticket is not None:
                ticket.scheduled = max(begin, ticket.arrived)
                ticket.cached = cached
                self._metrics.admitted(ticket, cached)

    def _end(self, result: StepResult, now: float) -> None:
        # By gap: outputs, and the tokens in them.
        gaps: dict[float, tuple[int, int]] = {}
        for request_id in result.tokens:
            ticket = self._tickets.get(request_id)
            if ticket is None:
                continue
            tokens = 1 + result.extra.get(request_id, 0)
            ticket.emitted += tokens
            if ticket.first_token is None:
                ticket.first_token = max(now, ticket.arrived)
                self._metrics.first_token(ticket, now)
            else:
                gap = now - ticket.last_token
                outputs, gained = gaps.get(gap, (0, 0))
                gaps[gap] = outputs + 1, gained + tokens
            ticket.last_token = now
            if not ticket.quiet:
                ticket.changed.set()
        for gap, (outputs, gained) in gaps.items():
            self._metrics.next_tokens(outputs, gained, gap)
        for done in result.finished:
            ticket = self._tickets.pop(done.id, None)
            if ticket is not None:
                ticket.done = True
                ticket.changed.set()
                self._metrics.finished(ticket, done, now)
        if not self._tickets:
            self.idle.set()
        self._metrics.step(result)
        self._metrics.stats = self._engine.stats()
        if self.stepped is not None:
            self.stepped()
