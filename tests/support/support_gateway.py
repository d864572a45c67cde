"""A whole gateway with scripted ends: real Envoy under the project's own control plane, a scripted processor, scripted pods."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ep
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ep_grpc
from support_envoy import Envoy, running_envoy
from support_net import wait_until

from ralb_operator.bootstrap import bootstrap
from ralb_operator.compile import Result
from ralb_operator.publish import Publisher, PublishReport
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer

_GRPC_OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))

MAX_BODY = 8 * 1024 * 1024
ABORT = "abort"
Step = bytes | float | asyncio.Event | str


@dataclass(frozen=True)
class Attempt:
    """One request a pod got."""

    pod: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def model(self) -> str:
        return str(json.loads(self.body)["model"])


def response(status: int, body: bytes, content_type: str = "application/json", *headers: str) -> list[Step]:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}", *headers, "", ""]
    return ["\r\n".join(lines).encode() + body]


def json_response(value: Any, *headers: str) -> list[Step]:
    return response(200, json.dumps(value).encode(), "application/json", *headers)


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    b"x-from-pod: yes\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def events(*values: Any, name: bool = False) -> list[bytes]:
    """Server-sent events; with ``name``, each under its ``type``, as the Responses and Messages APIs do."""
    out = []
    for value in values:
        data = value if isinstance(value, str) else json.dumps(value)
        prefix = f"event: {value['type']}\n" if name else ""
        out.append(f"{prefix}data: {data}\n\n".encode())
    return out


def sse_response(parts: Sequence[bytes]) -> list[Step]:
    return [SSE_HEAD, *(chunk(part) for part in parts), chunk(b"")]


class Pods:
    """Scripted pods on 127.0.0.1: what each answers, and every request they got, in order."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.scripts: dict[str, list[Step]] = {}
        self.attempts: list[Attempt] = []
        self.refused: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []

    async def start(self, *names: str, tls: ssl.SSLContext | None = None) -> None:
        for name in names:
            server = await asyncio.start_server(self._handler(name), "127.0.0.1", 0, limit=64 << 20, ssl=tls)
            self._servers.append(server)
            host, port = server.sockets[0].getsockname()
            self.addresses[name] = f"{host}:{port}"

    async def stop(self) -> None:
        for server in self._servers:
            server.close()

    def reset(self) -> None:
        self.scripts.clear()
        self.attempts.clear()

    @property
    def served(self) -> list[tuple[str, str]]:
        """(pod, model) of every attempt."""
        return [(attempt.pod, attempt.model) for attempt in self.attempts]

    def _handler(self, name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    self.attempts.append(await _read_request(name, reader))
                    script = self.scripts.get(name) or json_response({"model": name})
                    if not await _play(script, writer):
                        return
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        return handle


async def _read_request(name: str, reader: asyncio.StreamReader) -> Attempt:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in head[1:-2]:
        key, _, value = line.partition(": ")
        headers[key.lower()] = value
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return Attempt(name, head[0].split(" ")[1], headers, body)


async def _play(script: Sequence[Step], writer: asyncio.StreamWriter) -> bool:
    for step in script:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        else:
            writer.transport.abort()
            return False
    return True


@dataclass
class Processor(ep_grpc.ExternalProcessorServicer, als_pb2_grpc.AccessLogServiceServicer):
    """The processor as a script: routes every request by ``order``, rewrites for twins, keeps what Envoy shows it.

    Attributes:
        order: (cluster, endpoint or "") per attempt.
        model: model name written into the body for the first attempt.
        decision: content of the decision metadata.
        answer: if set, makes the answer to a body message instead.
        kinds: messages of the listener's filter, by kind.
        headers: request headers of the last request as shown.
        rewritten: model names put in by the rewriting twin.
        logs: access log entries.
    """

    order: list[tuple[str, str]] = field(default_factory=list)
    model: str = "first"
    decision: dict[str, str] = field(default_factory=dict)
    extra_headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[ep.ProcessingRequest], ep.ProcessingResponse] | None = None
    silent: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    headers: dict[str, str] = field(default_factory=dict)
    rewritten: list[str] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)

    def reset(self) -> None:
        self.__dict__.update(Processor().__dict__)

    async def Process(self, requests: AsyncIterator[ep.ProcessingRequest], context: Any) -> AsyncIterator[Any]:
        rewrite = dict(context.invocation_metadata()).get("x-ralb-rewrite-model")
        async for request in requests:
            kind = request.WhichOneof("request")
            if rewrite:
                yield self._rewrite(request, kind, rewrite)
                continue
            self.kinds[kind] += 1
            if kind == "request_headers":
                self.headers = {h.key: h.raw_value.decode() for h in request.request_headers.headers.headers}
                yield ep.ProcessingResponse(request_headers=ep.HeadersResponse())
            elif self.silent:
                await asyncio.Event().wait()
            elif kind == "request_body":
                yield self.answer(request) if self.answer else self._route(request)
            else:
                raise AssertionError(f"unexpected {kind}")

    def _rewrite(self, request: ep.ProcessingRequest, kind: str, model: str) -> ep.ProcessingResponse:
        if kind == "request_headers":
            answer = ep.ProcessingResponse(request_headers=ep.HeadersResponse())
            answer.request_headers.response.header_mutation.remove_headers.append("content-length")
            return answer
        assert kind == "request_body", kind
        self.rewritten.append(model)
        body = json.loads(request.request_body.body) | {"model": model}
        answer = ep.ProcessingResponse()
        answer.request_body.response.body_mutation.body = json.dumps(body).encode()
        return answer

    def _route(self, request: ep.ProcessingRequest) -> ep.ProcessingResponse:
        body = json.dumps(json.loads(request.request_body.body) | {"model": self.model}).encode()
        answer = ep.ProcessingResponse()
        common = answer.request_body.response
        common.clear_route_cache = True
        common.body_mutation.body = body
        for name, value in {"content-length": str(len(body)), **self.extra_headers}.items():
            option = common.header_mutation.set_headers.add()
            option.header.key, option.header.raw_value, option.append_action = name, value.encode(), 2
        groups = [
            {"name": str(position), "clusters": [{"cluster_name": cluster, "weight": 1}]}
            for position, (cluster, _) in enumerate(self.order)
        ]
        picks = ",".join(endpoint for _, endpoint in self.order if endpoint)
        metadata: dict[str, Any] = {"ralb.decision": self.decision}
        if groups:
            metadata["ralb.order"] = {"priority_groups": groups}
        if picks:
            metadata["envoy.lb"] = {"x-gateway-destination-endpoint": picks}
        answer.dynamic_metadata.update(metadata)
        return answer

    async def StreamAccessLogs(self, requests: AsyncIterator[Any], context: Any) -> als_pb2.StreamAccessLogsResponse:
        async for message in requests:
            self.logs.extend(message.http_logs.log_entry)
        return als_pb2.StreamAccessLogsResponse()

    async def log(self, request_id: str) -> Any:
        """The access log entry of a request. Envoy sends them some time after the answer."""

        def found() -> list[Any]:
            return [entry for entry in self.logs if entry.request.request_id == request_id]

        await wait_until(found, what=f"access log entry of {request_id}")
        (entry,) = found()
        return entry


class Gateway:
    """What a test works with; ``url`` is where clients call, ``report`` what the publication gave."""

    def __init__(self, envoy: Envoy, processor: Processor, pods: Pods, url: str, report: PublishReport) -> None:
        self.envoy = envoy
        self.processor = processor
        self.pods = pods
        self.url = url
        self.report = report
        self.processor_server: Any = None

    def reset(self) -> None:
        self.processor.reset()
        self.pods.reset()


@asynccontextmanager
async def processor_serving(processor: Processor, address: str) -> AsyncIterator[None]:
    server = grpc.aio.server(options=_GRPC_OPTIONS)
    ep_grpc.add_ExternalProcessorServicer_to_server(processor, server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(processor, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def gateway(
    compiled: Result, pods: Pods, processor_address: str, url: str, folder: Path
) -> AsyncIterator[Gateway]:
    """Serve ``compiled`` to a real Envoy. The processor is not started: see ``processor_serving``."""
    ads, snapshots = AdsServer(), SnapshotServer()
    serving = await serve(f"unix:{folder}/ads.sock", ads, snapshots)
    publisher = Publisher(ads, snapshots)
    try:
        await publisher.publish(compiled.xds, compiled.snapshot)
        config = bootstrap("test", f"unix:{folder}/ads.sock")
        async with running_envoy(config, folder, log_level="warning") as envoy:
            await ads.wait_acked(compiled.xds.by_type, 10)
            report = await publisher.publish(compiled.xds, compiled.snapshot)
            yield Gateway(envoy, Processor(), pods, url, report)
    finally:
        await publisher.close()
        await serving.stop(0)
