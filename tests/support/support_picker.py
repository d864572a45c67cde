"""Our own picker: in this process with a snapshot server behind it, so that tests can look inside, or as a process."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support_epp import Target, calling
from support_net import free_ports, wait_until

from ralb.v1 import snapshot_pb2 as pb
from ralb_extproc.app import Options, Processor
from ralb_extproc.epp.health import Serving
from ralb_extproc.epp.options import PickerOptions
from ralb_extproc.feedback import Settled
from ralb_extproc.place.columns import INFLIGHT
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer

POOL = "models/base"
ENDPOINTS = ("127.0.0.11:8000", "127.0.0.11:8001", "127.0.0.12:8000")


def pool(endpoints: Sequence[str] = ENDPOINTS, name: str = POOL, **fields: Any) -> pb.Pool:
    """A pool without metrics: its pods need not exist."""
    return pb.Pool(
        id=name,
        cluster=f"pool/{name}",
        model=pb.Model(name="base"),
        engine=pb.ENGINE_GENERIC,
        endpoints=[pb.Endpoint(address=address) for address in sorted(endpoints)],
        **fields,
    )


@dataclass
class Own:
    """A running picker of ours.

    Attributes:
        settled: every outcome, in order, with what was known of its request.
        records: every record, in order.
    """

    processor: Processor
    snapshots: SnapshotServer
    settled: list[Settled] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    _version: int = 0

    @property
    def address(self) -> str:
        return self.address_of(POOL)

    def address_of(self, pool_id: str) -> str:
        assert self.processor.pickers is not None
        return self.processor.pickers.addresses[pool_id]

    @property
    def in_flight(self) -> int:
        return len(self.processor.pods.ledger)

    @property
    def load(self) -> dict[str, float]:
        """Requests charged to each pod of the pool."""
        pods = self.processor.pods
        view = pods.view(POOL)
        return (
            {}
            if view is None
            else {a: float(pods.data[INFLIGHT, s]) for a, s in zip(view.addresses, view.slots, strict=True)}
        )

    @property
    def holds_nothing(self) -> bool:
        """Nothing is kept for any request: no load, no bytes."""
        pickers = self.processor.pickers
        assert pickers is not None
        return not self.in_flight and not any(self.load.values()) and not pickers.room.taken

    async def idle(self) -> None:
        """Wait for that."""
        await wait_until(lambda: self.holds_nothing, what="nothing held")

    async def apply(self, *pools: pb.Pool) -> None:
        """Have these pools in use."""
        self._version += 1
        version = f"v{self._version}"
        self.snapshots.set(pb.Snapshot(version=version, pools=pools))
        await wait_until(lambda: self.processor.follower.version == version, what=f"snapshot {version}")


@asynccontextmanager
async def own_picker(
    folder: Path,
    *pools: pb.Pool,
    tls: str = "off",
    start_with_snapshot: bool = True,
    more: tuple[tuple[str, str], ...] = (),
    health_listen: str = "127.0.0.1:0",
    sheddable: frozenset[str] = frozenset(),
    drain: tuple[float, float] = (0.0, 0.0),
    **options: Any,
) -> AsyncIterator[Own]:
    """Start it on a free port. Without ``pools`` there is one with ``ENDPOINTS``; ``more`` adds (address, pool id)."""
    # Paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ralb-epp-") as short:
        snapshots = SnapshotServer()
        serving = await serve(f"unix:{short}/s", AdsServer(), snapshots)
        epp = PickerOptions((("127.0.0.1:0", POOL), *more), tls, health_listen, sheddable, *drain)
        processor = Processor(replace(Options(listen="", operator=serving.address, records="", epp=epp), **options))
        own = Own(processor, snapshots)
        settle, put = processor.learner._settled, processor.records._put
        processor.learner._settled = lambda settled: (own.settled.append(settled), settle(settled))[1]
        processor.records._put = lambda record: (own.records.append(record), put(record))[1]
        try:
            await processor.start()
            if start_with_snapshot:
                await own.apply(*(pools or [pool()]))
            yield own
        finally:
            await processor.stop()
            await serving.stop(0)


@dataclass
class PickerProcess:
    """A running ``ralb-extproc`` that only picks: its addresses, and the files it writes."""

    process: asyncio.subprocess.Process
    log: Path
    records: Path
    admin: str
    picker: str
    health: str

    async def serving(self) -> None:
        """Wait until it says that it can pick."""

        async def ready() -> bool:
            async with calling(Target(self.health, False, ())) as caller:
                return await caller.health("readiness") == Serving.SERVING

        await wait_until(ready, 30, interval=0.1, what="the picker's readiness")


@asynccontextmanager
async def picker_process(
    operator: str, folder: Path, *arguments: str, pool_id: str = POOL
) -> AsyncIterator[PickerProcess]:
    """The command on free ports; its files are in ``folder``. It is killed at the end if it still runs."""
    admin, picker, health = free_ports(3)
    command = [sys.executable, "-m", "ralb_extproc.main", "--listen", "", "--operator", operator]
    command += [
        "--epp-pool",
        pool_id,
        "--epp-listen",
        f"127.0.0.1:{picker}",
        "--epp-health-listen",
        f"127.0.0.1:{health}",
        "--epp-drain-min",
        "0",
    ]
    command += ["--admin-port", str(admin), "--records", str(folder / "records.jsonl"), *arguments]
    log = folder / "picker.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
    try:
        yield PickerProcess(
            process,
            log,
            folder / "records.jsonl",
            f"http://127.0.0.1:{admin}",
            f"127.0.0.1:{picker}",
            f"127.0.0.1:{health}",
        )
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
