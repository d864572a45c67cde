"""The Secrets that pools refer to: each is watched by its name, and no other is ever asked for.

So a role may name single Secrets, and what a pool may not have never comes near. Their data stays in the store.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.feed import feed
from ralb_operator.cluster.kinds import SECRET
from ralb_operator.cluster.listwatch import ListWatch, State, Times
from ralb_operator.cluster.store import Entry, Store

_LOG = logging.getLogger(__name__)

MAX_SECRETS: Final = 512

Name = tuple[str, str]


@dataclass(slots=True)
class _Watch:
    follow: ListWatch[Entry]
    task: asyncio.Task[None]


class SecretWatches:
    """Follows exactly the wanted Secrets.

    Args:
        client: how to reach the server.
        store: where they are kept, each in a scope of its own.
        on_state: called when what can be read has changed.
        limit: how many at most.
        times: how patient to be.
    """

    def __init__(
        self,
        client: ApiClient,
        store: Store,
        on_state: Callable[[], None],
        *,
        limit: int = MAX_SECRETS,
        times: Times | None = None,
    ) -> None:
        self._client = client
        self._store = store
        self._on_state = on_state
        self._limit = limit
        self._times = times
        self._watches: dict[Name, _Watch] = {}
        self._beyond: frozenset[Name] = frozenset()

    def want(self, names: frozenset[Name]) -> None:
        """Follow these from now on, and forget others."""
        # Those that are followed stay so: a new pool must not take an old one's key away.
        kept = [name for name in sorted(names) if name in self._watches]
        room = self._limit - len(kept)
        new = [name for name in sorted(names) if name not in self._watches]
        beyond = frozenset(new[max(room, 0) :])
        if beyond and beyond != self._beyond:
            _LOG.warning("%d Secrets are referred to, %d more than are read", len(names), len(beyond))
        self._beyond = beyond
        for name in self._watches.keys() - names:
            self._watches.pop(name).task.cancel()
            self._store.leave(SECRET.name, "/".join(name))
        for name in new[: max(room, 0)]:
            follow = self._follow(*name)
            self._watches[name] = _Watch(follow, asyncio.create_task(follow.run()))

    @property
    def pending(self) -> list[str]:
        """``namespace/name`` of those not known yet, with the reason if there is one; what may not be read counts as known."""
        return [
            f"{namespace}/{name}" + (f": {watch.follow.message}" if watch.follow.message else "")
            for (namespace, name), watch in sorted(self._watches.items())
            if not watch.follow.synced and watch.follow.state is not State.FORBIDDEN
        ]

    def follows(self) -> tuple[ListWatch[Entry], ...]:
        """All of them."""
        return tuple(watch.follow for watch in self._watches.values())

    def unreadable(self) -> Mapping[Name, str]:
        """Those that cannot be read -> why, and what to do."""
        found = {name: f"more than {self._limit} Secrets are referred to" for name in self._beyond}
        for name, watch in self._watches.items():
            if watch.follow.state is State.FORBIDDEN:
                found[name] = (
                    f"the operator may not read it; allow its service account to list and watch the Secret {name[1]} "
                    f"in namespace {name[0]}"
                )
            elif not watch.follow.synced:
                found[name] = "it was not read yet"
        return found

    async def stop(self) -> None:
        """End all."""
        tasks = [watch.task for watch in self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, namespace: str, name: str) -> ListWatch[Entry]:
        scope = f"{namespace}/{name}"
        return feed(
            self._client,
            self._store,
            SECRET,
            namespace,
            self._on_state,
            scope=scope,
            title=f"Secret {scope}",
            fields=f"metadata.name={name}",
            times=self._times,
        )
