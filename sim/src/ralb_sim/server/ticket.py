"""A request's life in the server, shared between its handler and the runner."""

import asyncio
from dataclasses import dataclass, field

from ralb_sim.engine import EngineRequest


@dataclass(slots=True, eq=False)
class Ticket:
    """One sequence being served; times are real monotonic seconds.

    Attributes:
        request: What the engine was given.
        model: Name of the model asked for.
        arrived: When it was queued.
        truncated: The answer ends by its token limit (finish reason `length`).
        n: The request's `n`.
        max_tokens: The token limit it runs under; None for pooling.
        changed: Set whenever tokens came out or the request ended; shared by the choices of one HTTP request.
        quiet: Nobody shows partial output: `changed` is set at the end only.
        emitted: Output tokens visible so far.
        cached: Prompt tokens found in the prefix cache; -1 before admission.
        scheduled: When it was first scheduled.
        first_token: When its first token came out.
        last_token: When its latest token came out.
        done: It ended by itself.
        failed: The server gave it up (shutting down).
    """

    request: EngineRequest
    arrived: float
    model: str = ""
    truncated: bool = False
    n: int = 1
    max_tokens: int | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: bool = False
    emitted: int = 0
    cached: int = -1
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    done: bool = False
    failed: bool = False
