"""The engine model: continuous batching over a paged KV cache, without a clock and without I/O.

A caller adds requests, calls `Engine.step()` and lets the returned duration pass, in real time (the server) or in event time
(an offline study). Scheduling follows vLLM V1; see `core` for the rules. Nothing here may import asyncio, time or HTTP.
"""

from ralb_sim.engine.core import Engine, EngineConfig, EngineStats
from ralb_sim.engine.kv import BlockPool, OutOfBlocksError
from ralb_sim.engine.log import Cleared, KvEvent, KvLog, Removed, Stored
from ralb_sim.engine.request import EngineRequest, FinishedRequest, StepResult
from ralb_sim.engine.timing import StepShape, step_seconds

__all__ = [
    "BlockPool",
    "Cleared",
    "Engine",
    "EngineConfig",
    "EngineRequest",
    "EngineStats",
    "FinishedRequest",
    "KvEvent",
    "KvLog",
    "OutOfBlocksError",
    "Removed",
    "StepResult",
    "StepShape",
    "Stored",
    "step_seconds",
]
