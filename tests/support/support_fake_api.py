"""A small API server for faults a real one does not show on demand: gaps, expired tokens, hanging and broken answers.

It keeps any objects at any collection path, gives out resourceVersions, lists in chunks and watches from a version on. What it
does wrong is told to it: ``faults`` are used up one per matching request, first come first served.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Object = dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with one request: it hangs, or is answered with ``body`` or with a Status of ``status`` and ``reason``."""

    status: int = 0
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    watch: bool | None = None  # only watches, only others, or both
    path: str = ""  # only requests whose path ends so
    method: str = ""
    hang: bool = False


class FakeApi:
    """Use ``running_fake_api``.

    Attributes:
        url: where it listens.
        token: the only accepted one; "" accepts everybody.
        requests: (method, path, query) of all requests so far.
        faults: what goes wrong next.
        compacted: watches from before this version get 410.
        bookmarks: seconds between bookmarks; 0 for none.
        page: at most so many items a list has, whatever limit is asked for.
        watching: open watches.
        before: called with each request's query before it is answered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.token = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[Any] = []
        self.faults: list[Fault] = []
        self.compacted = 0
        self.bookmarks = 0.0
        self.page = 10_000
        self.version = 100
        self.watching = 0
        self.before: Callable[[dict[str, str]], None] = lambda query: None
        self.objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._log: list[tuple[int, str, str, Object]] = []
        self._changed = asyncio.Event()
        self._cut = asyncio.Event()
        self._lists: dict[str, tuple[int, list[Object]]] = {}

    # ---- what happens in the cluster ----

    def put(self, path: str, name: str, namespace: str = "ns", **content: Any) -> Object:
        """Create or change an object of the collection at ``path``."""
        self.version += 1
        collection = self.objects.setdefault(path, {})
        old = collection.get((namespace, name))
        metadata = {"uid": f"uid-{self.version}", "generation": 0, **(old["metadata"] if old else {})}
        metadata |= {"name": name, "namespace": namespace, "resourceVersion": str(self.version)}
        metadata["generation"] += 0 if old and old.get("spec") == content.get("spec") else 1
        data = {"metadata": metadata | content.pop("metadata", {}), **content}
        collection[namespace, name] = data
        self._tell("MODIFIED" if old else "ADDED", path, data)
        return data

    def delete(self, path: str, name: str, namespace: str = "ns") -> None:
        self.version += 1
        data = self.objects[path].pop((namespace, name))
        data = {**data, "metadata": {**data["metadata"], "resourceVersion": str(self.version)}}
        self._tell("DELETED", path, data)

    def cut(self) -> None:
        """End all open watches in the middle of whatever they send."""
        self._cut.set()
        self._cut = asyncio.Event()

    def gap(self) -> None:
        """Forget all events up to now: watches from before get 410."""
        self.compacted = self.version
        self._log.clear()

    def rewind(self, version: int) -> None:
        """A storage restored from an old backup: versions go on from a lower one."""
        self.version = version
        self._log.clear()

    def count(self, path: str, *, watch: bool) -> int:
        """Requests so far for a collection."""
        return sum(1 for _, at, query in self.requests if at == path and ("watch" in query) == watch)

    def _tell(self, event: str, path: str, data: Object) -> None:
        self._log.append((self.version, event, path, data))
        self._changed.set()
        self._changed = asyncio.Event()

    # ---- the server ----

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.method, request.path, query))
        self.before(query)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        for fault in self.faults:
            watch_fits = fault.watch is None or fault.watch == ("watch" in query)
            if watch_fits and request.path.endswith(fault.path) and fault.method in ("", request.method):
                self.faults.remove(fault)
                if fault.hang:
                    await asyncio.sleep(3600)
                if fault.body is not None:
                    return web.Response(status=fault.status or 200, body=fault.body, headers=fault.headers)
                return _status(fault.status, fault.reason, fault.headers)
        if request.method != "GET":
            self.bodies.append(await request.json() if request.can_read_body else None)
            return web.json_response({})
        if request.path not in self.objects:
            return _status(404, "NotFound")
        return await self._watch(request, query) if "watch" in query else self._list(request.path, query)

    def _list(self, path: str, query: dict[str, str]) -> web.Response:
        if "continue" in query:
            name, _, start = query["continue"].partition("/")
            if name not in self._lists:
                return _status(410, "Expired")
            version, items = self._lists[name]
            first = int(start)
        else:
            version = self.version
            items = [data for data in self.objects[path].values() if _selected(data, query.get("fieldSelector", ""))]
            name, first = str(len(self._lists)), 0
            self._lists[name] = (version, items)
        last = first + min(int(query.get("limit", "10000")), self.page)
        metadata = {"resourceVersion": str(version)}
        if last < len(items):
            metadata["continue"] = f"{name}/{last}"
        return web.json_response({"metadata": metadata, "items": items[first:last]})

    def expire_tokens(self) -> None:
        self._lists.clear()

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)

        async def send(event: str, data: Object) -> None:
            await response.write(json.dumps({"type": event, "object": data}).encode() + b"\n")

        if since < self.compacted:
            await send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
            return response
        self.watching += 1
        cut = asyncio.create_task(self._cut.wait())
        try:
            while True:
                changed = self._changed
                for version, event, path, data in list(self._log):
                    if version > since and path == request.path and _selected(data, query.get("fieldSelector", "")):
                        await send(event, data)
                since = max(since, self.version)
                waiting = asyncio.create_task(changed.wait())
                await asyncio.wait({waiting, cut}, timeout=self.bookmarks or None, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if cut.done():
                    await response.write(b'{"type": "MODI')
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if self.bookmarks and not changed.is_set():
                    await send("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})
        finally:
            self.watching -= 1
            cut.cancel()

    def kubeconfig(self, folder: Path, token: str = "") -> str:
        """A kubeconfig for it."""
        file = folder / "kubeconfig"
        user = {"token": token} if token else {}
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                    "clusters": [{"name": "x", "cluster": {"server": self.url}}],
                    "users": [{"name": "x", "user": user}],
                }
            )
        )
        return str(file)


def _selected(data: Object, selector: str) -> bool:
    """``metadata.name=x``; other selectors select all."""
    field_name, _, value = selector.partition("=")
    return field_name != "metadata.name" or bool(data["metadata"]["name"] == value)


def _status(code: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": f"{reason} it is"}
    return web.json_response(body, status=code, headers=headers)


@asynccontextmanager
async def running_fake_api(setup: Callable[[FakeApi], None] = lambda api: None) -> AsyncIterator[FakeApi]:
    api = FakeApi()
    setup(api)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
