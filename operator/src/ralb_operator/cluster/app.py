"""The operator as a whole: follows a cluster, compiles what it sees, and serves Envoys and processors.

Order matters at the start. Nothing is served before everything was listed and the first configuration was published: an operator
that comes back must not show running Envoys half of a cluster. Until then, and while the API server is away later, gateways go
on with what they have.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from ralb_operator.cluster import kinds
from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.credentials import CredentialsSource
from ralb_operator.cluster.feed import feed
from ralb_operator.cluster.listwatch import ListWatch, Times
from ralb_operator.cluster.picture import Picture
from ralb_operator.cluster.rebuild import Rebuilder
from ralb_operator.cluster.secrets import Name, SecretWatches
from ralb_operator.cluster.store import Entry, Store
from ralb_operator.cluster.watch_objects import OwnObjects
from ralb_operator.compile import needs
from ralb_operator.control import Applied, ControlPlane
from ralb_operator.progress import Progress
from ralb_operator.publish import Outcome
from ralb_operator.tls import ServerTls
from ralb_operator.view import Gateway, View

_LOG = logging.getLogger(__name__)

# How long a new pool's Secrets may hold up everybody else's changes.
_SECRETS_S: Final = 2.0

OnApplied = Callable[[Applied, View], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        listen: gRPC address for Envoys and processors, ``unix:/path`` or ``host:port``.
        kubeconfig: path; "" for the service account or the user's own.
        namespaces: the only ones to look at; none = all.
        identity: name of this replica, unique among them: the pod's.
        own_namespace: where the operator itself runs.
        gateway: what is compiled into the configuration.
        times: how patient to be with the API server.
    """

    listen: str = "0.0.0.0:9300"
    kubeconfig: str = ""
    namespaces: tuple[str, ...] = ()
    identity: str = ""
    own_namespace: str = ""
    gateway: Gateway = field(default_factory=Gateway)
    times: Times = field(default_factory=Times)


class Operator:
    """Create it on its event loop, then ``run`` it once.

    Args:
        options: how to run.
        tls: required of Envoys and processors; None serves in clear.

    Attributes:
        client, store, control, rebuilder, objects, secrets: its parts.
        tls: as given.
        others: the ListWatches of kinds that are not RALB's own.
        on_applied: called after each publication with what came of it and the view; they must not block.
        companions: run beside it from the start until everything else has stopped, then cancelled. One that raises ends
            the operator.
        ready_after_s: seconds from the start to the first publication; 0 before it.
        changed_at: monotonic time of the first change that was new in the last publication; None if none is known.
    """

    def __init__(self, options: Options, tls: ServerTls | None = None) -> None:
        source = CredentialsSource(options.kubeconfig)
        self.options = options
        self.tls = tls
        self.client = ApiClient(source)
        self.store = Store()
        self.control = ControlPlane(options.listen, tls)
        self.picture = Picture(self.store, options.gateway)
        self.rebuilder = Rebuilder(self.store.dirty, self._build)
        self.objects = OwnObjects(self.client, source, self.store, options.namespaces, self._progressed, options.times)
        self.secrets = SecretWatches(self.client, self.store, self._secrets_changed, times=options.times)
        self.others: list[ListWatch[Entry]] = [
            feed(self.client, self.store, kind, namespace, self._progressed, times=options.times)
            for kind in kinds.OTHERS
            for namespace in (options.namespaces or ("",))
        ]
        self.on_applied: list[OnApplied] = []
        self.companions: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.ready_after_s = 0.0
        self.changed_at: float | None = None
        self._progress = Progress()
        self._published = asyncio.Event()
        self._serving = asyncio.Event()
        self._stopping = False
        self._started = time.monotonic()
        self._needed: tuple[int, int, frozenset[Name]] = (-1, -1, frozenset())
        self._unreadable: dict[Name, str] = {}

    def not_ready(self) -> list[str]:
        """What is missing, in words; nothing when it serves."""
        if self._stopping:
            return ["stopping"]
        if self._serving.is_set():
            return []
        waiting = self.objects.not_ready()
        for follow in self.others:
            if not follow.synced:
                waiting.append(f"{follow.name}: {follow.state}: {follow.message}" if follow.message else follow.name)
        if not waiting:
            waiting = [f"Secret {name}" for name in self.secrets.pending]
        if waiting:
            return [f"waiting for {what}" for what in waiting]
        if self._published.is_set() and self.tls is not None and self.tls.keeper.current is None:
            keeper = self.tls.keeper
            return [
                f"waiting for TLS material from {keeper.source}" + (f": {keeper.problem}" if keeper.problem else "")
            ]
        return [self.rebuilder.last_error or "the first configuration is not published yet"]

    async def wait_serving(self) -> None:
        """Wait until Envoys and processors are served."""
        await self._serving.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then drain.

        Raises:
            RuntimeError: something ended that must not; the text says what.
            OSError: the address cannot be bound.
        """
        self._started = time.monotonic()
        beside = [asyncio.create_task(companion()) for companion in self.companions]
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({work, stopped, *beside}, return_when=asyncio.FIRST_COMPLETED)
            self._stopping = True
            for task in done - {stopped}:
                # It raises, or has ended for no reason, which is as bad.
                await task
                raise RuntimeError("a part of the operator ended unexpectedly")
        finally:
            await _end(stopped, work)
            with contextlib.suppress(Exception):
                await self.control.stop()
            await self.secrets.stop()
            await _end(*beside)
            await self.client.close()

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.objects.run())
                for follow in self.others:
                    tasks.create_task(follow.run())
                await self._listed()
                self.store.dirty.set()
                tasks.create_task(self.rebuilder.run())
                await self._published.wait()
                await self.control.start()
                self.ready_after_s = time.monotonic() - self._started
                self._serving.set()
                _LOG.info("serving %s, %.1f s after the start", self.options.listen, self.ready_after_s)
                # What was read at the start stays; the collector need not look at it again and again.
                gc.collect()
                gc.freeze()
        except* Exception as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            failure = error
        else:
            failure = RuntimeError("all parts of the operator ended")
        raise failure

    async def _listed(self) -> None:
        told = ""
        while True:
            missing = [*self.objects.not_ready(), *(follow.name for follow in self.others if not follow.synced)]
            if not missing:
                return
            if (text := "; ".join(self.not_ready())) != told and told:
                _LOG.info("%s", text)
            told = text
            await self._progress.wait_for(lambda: False, 1.0)

    async def _build(self) -> bool:
        self.secrets.want(self._needs())
        settled = await self._progress.wait_for(lambda: not self.secrets.pending, _SECRETS_S)
        if not settled and not self._published.is_set():
            # At the start there is nothing to lose by waiting, and a pool's key is not to be taken from running Envoys.
            raise RuntimeError(f"waiting for Secret {', '.join(self.secrets.pending)}")
        self._unreadable = dict(self.secrets.unreadable())
        changed_at, self.store.changed_at = self.store.changed_at, None
        view = self.picture.view(self._unreadable)
        applied = await self.control.apply(view)
        self.changed_at = changed_at
        for hook in self.on_applied:
            hook(applied, view)
        self._published.set()
        return applied.report.outcome is not Outcome.HELD

    def _needs(self) -> frozenset[Name]:
        revisions = self.store.revision("ModelPool"), self.store.revision(kinds.GRANT.name)
        if self._needed[:2] != revisions:
            self._needed = (*revisions, needs(*self.picture.pools_and_grants()))
        return self._needed[2]

    def _progressed(self) -> None:
        self._progress.made()

    def _secrets_changed(self) -> None:
        self._progress.made()
        if self._published.is_set() and self.secrets.unreadable() != self._unreadable:
            self.store.dirty.set()


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
