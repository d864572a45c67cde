"""A pool of ``ralb-sim`` processes with KV events, placed on and told of outcomes as the processor does it, without Envoy."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry
from support_simulators import Simulators, running_simulators

from ralb.v1.snapshot_pb2 import ENGINE_VLLM, Endpoint, KvEvents, Pool
from ralb_extproc.cache_events import CacheEvents
from ralb_extproc.feedback import Learner, Outcome
from ralb_extproc.place import FlightInfo, PodTable, Prefix, prefix_of
from ralb_extproc.request import parse

PORT, EVENTS, REPLAY = 8000, 5557, 5558
POOL = "ns/p"


@dataclass
class Fleet:
    """Pods, the table that knows them, and what listens to their events.

    ``trusted`` is a table that is told the same requests but hears no events.
    """

    simulators: Simulators
    session: aiohttp.ClientSession
    events: CacheEvents
    pods: PodTable
    learner: Learner
    trusted: PodTable
    registry: CollectorRegistry
    addresses: list[str] = field(default_factory=list)
    sent: int = 0

    async def start(self, count: int, **options: str | float) -> None:
        common = {"time_scale": 0.01, "output_median": 8, "output_sigma": 0.0, "kv_events_port": EVENTS}
        for _ in range(count):
            ip = await self.simulators.start("m", port=PORT, **(common | options))
            self.addresses.append(f"{ip}:{PORT}")

    def follow(self, *, replay: bool = False) -> None:
        """Take the pods into the table and listen to them."""
        pool = Pool(
            id=POOL,
            engine=ENGINE_VLLM,
            endpoints=[Endpoint(address=address) for address in sorted(self.addresses)],
            kv_events=KvEvents(port=EVENTS, replay_port=REPLAY if replay else 0),
        )
        for table in (self.pods, self.trusted):
            table.update([pool], time.monotonic())
        self.events.update([pool])

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["endpoint"]: row for row in self.events.rows()}

    @property
    def view(self) -> Any:
        assert self.events._parts is not None
        return self.events._parts[1]

    @property
    def subscriber(self) -> Any:
        assert self.events._parts is not None
        return self.events._parts[0]

    def hits(self, prefix: Prefix, address: str, tokens: int = 1000, *, trusted: bool = False) -> float:
        """Share of a prompt that a pod is expected to hold."""
        table = self.trusted if trusted else self.pods
        view = table.view(POOL)
        assert view is not None
        hits = table.prefix_hits(prefix, view, tokens)
        return 0.0 if hits is None else float(hits[view.addresses.index(address)]) / tokens

    async def send(
        self, text: str, address: str, *, turns: tuple[str, ...] = (), output: int = 8
    ) -> tuple[Prefix, int]:
        """One conversation turn on one pod; returns its prefix and the prompt tokens that were cached."""
        body = body_of(*turns, text, output=output)
        prefix = prefix_of(parse("/v1/chat/completions", {}, body))
        self.sent += 1
        name, begun = f"r{self.sent}", time.monotonic()
        for table in (self.pods, self.trusted):
            slot = table.slot(POOL, address)
            key = table.key(slot) if slot is not None else None
            assert slot is not None
            assert key is not None
            info = FlightInfo(pool=POOL, attempts=((slot, key.generation),), pools=(POOL,), prefix=prefix)
            table.begin(name, slot, 0.0, 0.0, begun, info)
            table.record_prefix(prefix, slot)
        async with self.session.post(f"http://{address}/v1/chat/completions", data=body) as response:
            assert response.status == 200, await response.text()
            usage = (await response.json())["usage"]
        cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
        self.trusted.finish(name)
        self.learner.learn(
            Outcome(
                decision_id=name,
                status=200,
                attempts=1,
                upstream=address,
                duration=time.monotonic() - begun,
                input_tokens=usage["prompt_tokens"],
                output_tokens=usage["completion_tokens"],
                cached_tokens=cached,
            )
        )
        return prefix, cached


def body_of(*turns: str, output: int = 8) -> bytes:
    """A chat request of these turns, the client's and the model's in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": each} for i, each in enumerate(turns)]
    return json.dumps({"model": "m", "messages": messages, "max_tokens": output, "ignore_eos": True}).encode()


def text(seed: int, tokens: int) -> str:
    """A text of about so many tokens that shares nothing with other seeds'."""
    words = (f"{seed * 7919 + i:09d} about" for i in range(tokens // 4 + 1))
    return " ".join(words)[: tokens * 4]


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    pods, registry = PodTable(), CollectorRegistry()
    events = CacheEvents(pods, registry)
    async with running_simulators(folder) as simulators, aiohttp.ClientSession() as session:
        yield Fleet(simulators, session, events, pods, Learner(pods, settled=events.settled), PodTable(), registry)
        await events.stop()
