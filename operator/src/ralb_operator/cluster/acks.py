"""What this replica's own Envoys and processors say of what was published, as a ``Report``.

Judging objects may not enter (``programmed``), nor the other replicas (``reports``). Answers also come after a publication
returned: from late Envoys, new ones, and those that reconnect. ``settled`` must then follow, and a refusal must lead to another
publication without the refused pool, which is what ``again`` is for.
"""

import asyncio
from collections.abc import Callable
from itertools import chain
from typing import Final

from ralb_operator.cluster.programmed import MAX_WORDS, Report, printable
from ralb_operator.compile import Reason
from ralb_operator.control import Applied, ControlPlane
from ralb_operator.progress import Progress
from ralb_operator.publish import Outcome
from ralb_operator.quarantine import REFUSES, pool_of
from ralb_operator.troubles import merged
from ralb_operator.xds.subscription import Nack

MAX_LATE: Final = 16
_QUIET_S: Final = 0.05


class Acks:
    """Follows one ``ControlPlane``. Use it on its event loop.

    Args:
        plane: what serves the gateways.
        replica: name of this pod.
        again: called when what was refused meanwhile calls for another publication of the same view.
    """

    def __init__(self, plane: ControlPlane, replica: str, again: Callable[[], None]) -> None:
        self._plane = plane
        self._replica = replica
        self._again = again
        self._applied: Applied | None = None
        self._edition = ""
        self._settled = ""
        self._known: frozenset[tuple[str, str, str, str | None]] = frozenset()

    def applied(self, applied: Applied, edition: str) -> None:
        """A view with this edition was published; call it without awaiting anything in between."""
        if applied.report.outcome is Outcome.SUPERSEDED:
            return
        self._applied = applied
        self._edition = edition
        self._known = self._refusals()
        # At this moment nobody is late; at another there may always be something under way.
        self.report()

    def report(self) -> Report:
        """The state at this moment."""
        envoys = self._plane.ads.peers()
        processors = self._plane.snapshots.processors()
        late = [node for node, complete in envoys if not complete]
        late += [processor.node for processor in processors if not processor.settled]
        applied, held = self._applied, ""
        heard = [processor.troubles for processor in processors if processor.troubles is not None]
        troubles = merged(chain.from_iterable(heard))
        if applied is None:
            return Report(self._replica, envoys=len(envoys), processors=len(processors), heard=len(heard))
        nacks = self._plane.publisher.nacks()
        if applied.report.outcome is Outcome.HELD:
            held = "gateways refuse " + (_subject(nacks[0]) if nacks else "part of their configuration")
        elif not (envoys or processors):
            self._settled = ""
        elif not late:
            self._settled = self._edition
        version = self._plane.snapshots.version
        unread = sorted({processor.error for processor in processors if processor.refused == version and version})
        shared = sorted({nack.message for nack in nacks if pool_of(nack.type_url, nack.name) is None})
        return Report(
            self._replica,
            self._edition,
            self._settled,
            version,
            len(envoys),
            len(processors),
            tuple(sorted(printable(node, 253) for node in late)[:MAX_LATE]),
            len(late),
            self._refused(applied, nacks),
            printable(shared[0], MAX_WORDS) if shared else "",
            printable(unread[0], MAX_WORDS) if unread else "",
            held,
            len(heard),
            troubles,
        )

    async def follow(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` soon after anybody answered, joined or left; until cancelled."""
        async with asyncio.TaskGroup() as group:
            for progress in (self._plane.ads.progress, self._plane.snapshots.progress):
                group.create_task(self._follow(progress, notify))

    async def _follow(self, progress: Progress, notify: Callable[[], None]) -> None:
        seen = progress.count
        while True:
            seen = await progress.wait_beyond(seen)
            self._heard()
            notify()
            # Answers come in crowds, a few for every publication and Envoy.
            await asyncio.sleep(_QUIET_S)

    def _heard(self) -> None:
        if self._applied is None:
            return
        refusals, held = self._refusals(), self._applied.report.outcome is Outcome.HELD
        # While it is held any change may be the way out; otherwise only new refusals are news to the quarantine.
        if refusals != self._known if held else refusals - self._known:
            self._again()
        self._known = refusals

    def _refusals(self) -> frozenset[tuple[str, str, str, str | None]]:
        return frozenset((n.node, n.type_url, n.name, n.version) for n in self._plane.publisher.nacks())

    def _refused(self, applied: Applied, nacks: tuple[Nack, ...]) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for nack in nacks:
            key = pool_of(nack.type_url, nack.name)
            if key is not None and nack.version is not None:
                found[str(key)] = printable(nack.message, MAX_WORDS)
        for problem in applied.result.problems:
            if problem.reason == Reason.REFUSED and problem.object is not None:
                found[str(problem.object)] = printable(problem.message.removeprefix(REFUSES), MAX_WORDS)
        return tuple(sorted(found.items()))


def _subject(nack: Nack) -> str:
    kind = nack.type_url.rpartition(".")[2]
    return f"{kind} {printable(nack.name, 253)}: {printable(nack.message, MAX_WORDS)}"
