"""Everything known of the cluster, as small values by kind and name, and a flag when something that matters has changed.

Reading the API may not enter, nor any meaning of the values. Two sources may tell of the same kind (events in one stream, lists
in another), so what they say is put in order by resourceVersion: an older state never overwrites a newer one, and an object that
was deleted stays so.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ralb_api.problems import ObjectKey, Problem

# Deletions that are remembered until the next list of their kind, so that a list begun before does not bring them back.
_MAX_BURIED: Final = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One object.

    Attributes:
        key: who it is.
        value: what became of it; None if it could not be parsed.
        problems: what is wrong with it.
        uid, version: as in its metadata.
        generation: of its spec; 0 where there is none.
        status: ``status`` as last seen; kept for our kinds only, and not part of what matters.
    """

    key: ObjectKey
    value: Any
    problems: tuple[Problem, ...] = ()
    uid: str = ""
    version: str = ""
    generation: int = 0
    status: Mapping[str, Any] = field(default_factory=dict)

    def same(self, other: "Entry") -> bool:
        """Whether both mean the same to ``compile``."""
        return (
            self.uid == other.uid
            and self.generation == other.generation
            and self.value == other.value
            and self.problems == other.problems
        )


@dataclass(slots=True)
class _Kind:
    """What is known of one kind in one scope (a namespace, or "" for all).

    ``listed``: version of the last list, -1 if unknown. ``newest``: highest version seen.
    """

    entries: dict[ObjectKey, Entry] = field(default_factory=dict)
    buried: dict[ObjectKey, int] = field(default_factory=dict)
    listed: int = -1
    newest: int = -1


def order(version: str) -> int:
    """A resourceVersion as a number to compare; -1 if it is none."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) < 32 else -1


class Store:
    """The cluster as last seen. Use it on one event loop.

    Attributes:
        dirty: set when something changed that matters; whoever builds from it clears it.
        changes: how many such changes there were.
        changed_at: monotonic time of the first of them since somebody set it to None.
    """

    def __init__(self) -> None:
        self.dirty = asyncio.Event()
        self.changes = 0
        self.changed_at: float | None = None
        self._scopes: defaultdict[str, dict[str, _Kind]] = defaultdict(dict)
        self._revisions: defaultdict[str, int] = defaultdict(int)

    def revision(self, kind: str) -> int:
        """A number that grows when anything of a kind changes that matters."""
        return self._revisions[kind]

    def entries(self, kind: str) -> Iterable[Entry]:
        """All objects of a kind, in no order."""
        for scope in self._scopes[kind].values():
            yield from scope.entries.values()

    def get(self, key: ObjectKey) -> Entry | None:
        """One object."""
        for scope in self._scopes[key.kind].values():
            if (entry := scope.entries.get(key)) is not None:
                return entry
        return None

    def size(self, kind: str) -> int:
        """How many objects of a kind there are."""
        return sum(len(scope.entries) for scope in self._scopes[kind].values())

    def newest(self, kind: str, scope: str = "") -> int:
        """Highest version seen; give it to ``replace`` if it was taken before the list was asked for."""
        return self._of(kind, scope).newest

    def put(self, entry: Entry, scope: str = "") -> bool:
        """Take in an object; whether that changed something that matters."""
        of, key = self._of(entry.key.kind, scope), entry.key
        version = order(entry.version)
        known = of.entries.get(key)
        if version >= 0:
            if known is not None:
                if version < order(known.version):
                    return False
            elif version <= max(of.listed, of.buried.get(key, -1)):
                # It was deleted before the last list, or since: this tells of the time before that.
                return False
            of.newest = max(of.newest, version)
        of.buried.pop(key, None)
        of.entries[key] = entry
        return self._changed(key.kind) if known is None or not entry.same(known) else False

    def drop(self, key: ObjectKey, uid: str = "", version: str = "", scope: str = "") -> bool:
        """Take out an object, unless what is known of it is newer than its deletion.

        Args:
            key: who it was.
            uid: which of those that had the name over time; "" if unknown.
            version: when it was deleted; "" if unknown.
            scope: where it was seen.
        """
        of, known, at = self._of(key.kind, scope), None, order(version)
        known = of.entries.get(key)
        if known is not None and at >= 0 and order(known.version) > at:
            return False
        if known is not None and at < 0 and uid and known.uid and known.uid != uid:
            return False
        if at >= 0:
            of.newest = max(of.newest, at)
            of.buried.pop(key, None)
            of.buried[key] = at
            while len(of.buried) > _MAX_BURIED:
                del of.buried[next(iter(of.buried))]
        if known is None:
            return False
        del of.entries[key]
        return self._changed(key.kind)

    def replace(
        self, kind: str, entries: Iterable[Entry], version: str = "", scope: str = "", since: int | None = None
    ) -> bool:
        """Make a list the state of a kind: what is not in it is gone. Returns whether that changed something that matters.

        Args:
            kind: of all the entries.
            entries: everything there is in the scope.
            version: of the list.
            scope: what was listed: a namespace, or "" for all.
            since: for kinds that have another source beside this list: ``newest`` from before the list was asked for. What
                that source told since then is kept where it is newer. Lists are never older than what was seen before
                they were asked for; one that is comes from a storage that went back in time, and is taken as it is.
        """
        of, at = self._of(kind, scope), order(version)
        fresh = {entry.key: entry for entry in entries}
        if since is not None and at >= 0 and at >= since:
            for key, known in of.entries.items():
                listed = fresh.get(key)
                if order(known.version) > (at if listed is None else order(listed.version)):
                    fresh[key] = known
            for key, when in of.buried.items():
                if when > at and key in fresh and order(fresh[key].version) < when:
                    del fresh[key]
            of.buried = {key: when for key, when in of.buried.items() if when > at}
            of.newest = max(of.newest, at)
        else:
            of.buried.clear()
            of.newest = at
        of.listed = at
        old = of.entries
        of.entries = fresh
        if old.keys() == fresh.keys() and all(entry.same(old[key]) for key, entry in fresh.items()):
            return False
        return self._changed(kind)

    def leave(self, kind: str, scope: str) -> bool:
        """Forget all of a scope that is not followed any more; whether that changed something that matters."""
        of = self._scopes[kind].pop(scope, None)
        return self._changed(kind) if of is not None and of.entries else False

    def restatus(self, key: ObjectKey, status: Mapping[str, Any], version: str, scope: str = "") -> None:
        """Note a status that was written, ahead of the event that will tell of it."""
        of = self._of(key.kind, scope)
        known = of.entries.get(key)
        if known is not None and order(version) > order(known.version):
            of.entries[key] = replace(known, status=status, version=version)

    def _of(self, kind: str, scope: str) -> _Kind:
        scopes = self._scopes[kind]
        if scope not in scopes:
            scopes[scope] = _Kind()
        return scopes[scope]

    def _changed(self, kind: str) -> bool:
        self._revisions[kind] += 1
        self.changes += 1
        if self.changed_at is None:
            self.changed_at = time.monotonic()
        self.dirty.set()
        return True
