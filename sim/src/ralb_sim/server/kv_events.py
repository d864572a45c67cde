"""Publishes what the cache stores and removes, as vLLM does: a ZeroMQ PUB socket, and a ROUTER one that replays.

A message is (topic, sequence number in 8 bytes, msgpack batch); a batch is [time, events, data-parallel rank] and an event
["BlockStored", hashes, parent, token ids, block size, LoRA id, medium], ["BlockRemoved", hashes, medium] or
["AllBlocksCleared"], or all of these are maps, as newer vLLMs have it. Imported only where events are asked for.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from ralb_sim import tokens
from ralb_sim.config import KvEventsConfig
from ralb_sim.engine.log import KvEvent, Removed, Stored

_WIDTH = 8
_END = b"\xff" * _WIDTH
_TOPIC = b""
_MEDIUM = "GPU"
_RANK = 0


class Publisher:
    """Publishes the events of one engine.

    Args:
        config: Where and how.
        block_size: Tokens per block.

    Raises:
        OSError: A port cannot be bound.
    """

    def __init__(self, config: KvEventsConfig, block_size: int) -> None:
        self._config = config
        self._block_size = block_size
        self._sequence = 0
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=config.kept)
        self._context = zmq.asyncio.Context()
        self._task: asyncio.Task[None] | None = None
        self._router: zmq.asyncio.Socket | None = None
        try:
            # A PUB socket never blocks: what a subscriber does not take is dropped for it.
            self._pub = zmq.Context(self._context).socket(zmq.PUB)
            self._pub.setsockopt(zmq.LINGER, 0)
            self._pub.bind(f"tcp://{config.host}:{config.port}")
            if config.replay_port:
                self._router = self._context.socket(zmq.ROUTER)
                self._router.setsockopt(zmq.LINGER, 0)
                self._router.setsockopt(zmq.SNDHWM, 0)
                self._router.bind(f"tcp://{config.host}:{config.replay_port}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(error.errno, f"KV events: {error}") from error

    def start(self) -> None:
        """Answer replay requests; call within a running loop."""
        if self._router is not None:
            self._task = asyncio.create_task(self._replay(self._router), name="kv-events-replay")

    async def stop(self) -> None:
        """Close the sockets."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._pub.close()
        self._context.destroy(linger=0)

    def publish(self, events: Iterable[KvEvent]) -> None:
        """Send these as one batch; nothing if there are none."""
        encoded = [self._encoded(event) for event in events]
        if not encoded:
            return
        batch: Any = [time.time(), encoded, _RANK]
        if self._config.as_maps:
            batch = dict(zip(("ts", "events", "data_parallel_rank"), batch, strict=True))
        payload = msgpack.packb(batch)
        number = self._sequence.to_bytes(_WIDTH, "big")
        self._sequence += 1
        self._kept.append((number, payload))
        self._pub.send_multipart((_TOPIC, number, payload))

    def _encoded(self, event: KvEvent) -> Any:
        fields: dict[str, Any]
        if isinstance(event, Stored):
            fields = {
                "type": "BlockStored",
                "block_hashes": event.hashes,
                "parent_block_hash": event.parent,
                "token_ids": tokens.ids(event.tokens),
                "block_size": self._block_size,
                "lora_id": None,
                "medium": _MEDIUM,
            }
        elif isinstance(event, Removed):
            fields = {"type": "BlockRemoved", "block_hashes": event.hashes, "medium": _MEDIUM}
        else:
            fields = {"type": "AllBlocksCleared"}
        return fields if self._config.as_maps else list(fields.values())

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != _WIDTH:
                continue
            client, start = frames[0], frames[2]
            for number, payload in list(self._kept):
                if number >= start:
                    await router.send_multipart((client, b"", number, payload))
            await router.send_multipart((client, b"", _END, b""))
