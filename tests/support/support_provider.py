"""Providers outside the cluster: HTTPS servers with certificates of their own, and a gateway whose objects change."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from support_envoy import Envoy, running_envoy
from support_gateway import MAX_BODY, Pods, Processor, processor_serving
from support_net import free_port, wait_until

from ralb_operator.bootstrap import bootstrap
from ralb_operator.certs import Usage, issue, new_authority
from ralb_operator.control import Applied, ControlPlane
from ralb_operator.files import load
from ralb_operator.view import Gateway as GatewaySettings

NAME = "api.provider.test"
KEY = "sk-first-0123456789abcdef"
OTHER_KEY = "sk-other-fedcba9876543210"
CLIENT = {"authorization": "Bearer of-the-client", "x-api-key": "of-the-client"}


class Authority:
    """A CA of the tests' own."""

    def __init__(self, *names: str) -> None:
        self._names = names or (NAME, "localhost")
        self._now = datetime.now(UTC)
        self._pair = new_authority("provider", self._names, self._now, timedelta(days=1))

    @property
    def pem(self) -> str:
        return self._pair.cert.decode()

    def server(self, folder: Path, *names: str, alpn: Sequence[str] = ("http/1.1",)) -> ssl.SSLContext:
        """A server's side of TLS under these names."""
        certificate, key = self.files(folder, *names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(list(alpn))
        return context

    def files(self, folder: Path, *names: str) -> tuple[Path, Path]:
        """Certificate and key for these names, as files."""
        folder.mkdir(exist_ok=True)
        pair = issue(self._pair, names or (NAME, "localhost"), Usage.SERVER, self._now, timedelta(hours=12))
        certificate, key = folder / f"{names[0] if names else NAME}.crt", folder / f"{names[0] if names else NAME}.key"
        certificate.write_bytes(pair.cert)
        key.write_bytes(pair.key)
        return certificate, key


class Overhearing(Processor):
    """The scripted processor, which keeps everything Envoy ever told it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async def listened() -> AsyncIterator[Any]:
            async for request in requests:
                self.heard.append(request.SerializeToString())
                yield request

        self.heard.append(repr(context.invocation_metadata()).encode())
        async for answer in super().Process(listened(), context):
            yield answer

    def everything(self) -> bytes:
        """Processing messages, call metadata and access log."""
        return b"\n".join([*self.heard, *(entry.SerializeToString() for entry in self.logs)])


def model_pool(name: str, **backend: Any) -> dict[str, Any]:
    """A pool whose model is called like itself."""
    spec = {
        "model": {"name": f"{name}-model"},
        "backend": backend,
        "balancing": {"slowStart": "0s", "circuitBreaker": {"retryBudgetPercent": 100, "minRetries": 100}},
    }
    return {"apiVersion": "ralb.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": name}, "spec": spec}


def external(name: str, address: str, **fields: Any) -> dict[str, Any]:
    """An external pool; its CA is the Secret ``ca``, its key that of the Secret ``key``, unless said otherwise."""
    tls = {"hostname": NAME, "caCertificateRef": {"name": "ca"}}
    values = {
        "host": "localhost",
        "port": int(address.rpartition(":")[2]),
        "tls": tls,
        "credentialsRef": {"name": "key"},
    }
    values |= fields
    return model_pool(name, external={key: value for key, value in values.items() if value is not None})


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def pod(name: str, address: str, app: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    metadata = {"name": name, "labels": {"app": app}, "annotations": {"ralb.dev/port": port}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIP": host}}


@dataclass
class World:
    """A gateway, what stands behind it, and the objects in force.

    Attributes:
        pods: plain servers and providers, by name.
        processor: scripted; ``order`` says where a request goes.
        url: where clients call.
    """

    folder: Path
    pods: Pods
    processor: Overhearing
    envoy: Envoy
    control: ControlPlane
    settings: GatewaySettings
    session: aiohttp.ClientSession
    url: str
    applied: list[Applied] = field(default_factory=list)

    async def apply(self, *objects: Mapping[str, Any]) -> Applied:
        """Put these objects in force, and no others; all of them must be valid.

        Envoy says that it took a listener before each of its threads has it, and a provider is behind a listener of its own.
        """
        path = self.folder / "objects.yaml"
        path.write_text(yaml.safe_dump_all(list(objects)))
        view = load(path, self.settings)
        assert not view.problems, view.problems
        applied = await self.control.apply(view)
        self.applied.append(applied)
        await wait_until(self._listening, what="every listener on every thread")
        return applied

    async def _listening(self) -> bool:
        stats = await self.envoy.stats(r"listener_manager\.|server\.concurrency")
        wanted = stats["server.concurrency"] * stats["listener_manager.listener_added"]
        made = stats["listener_manager.listener_create_success"]
        return not stats["listener_manager.total_listeners_warming"] and made >= wanted

    def route(self, *pools: str) -> None:
        """Attempts in this order; a pool other than the first by its rewriting twin. ``pool=pod`` picks a pod."""
        order = []
        for position, entry in enumerate(pools):
            name, _, picked = entry.partition("=")
            cluster = f"pool/default/{name}" + ("/rewrite" if position else "")
            order.append((cluster, self.pods.addresses[picked] if picked else ""))
        self.processor.order = order
        self.processor.model = f"{pools[0].partition('=')[0]}-model"

    async def ask(
        self, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None, **body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers and body of the answer."""
        async with self.session.post(self.url + path, json={"model": "auto", **body}, headers=headers) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


@asynccontextmanager
async def world(folder: Path, **settings: Any) -> AsyncIterator[World]:
    """A running gateway without objects."""
    port, address = free_port(), f"unix:{folder}/processor.sock"
    options = {"port": port, "processor": address, "max_body_bytes": MAX_BODY, "processor_timeout_s": 2.0, **settings}
    gateway = GatewaySettings(**options)
    pods, processor = Pods(), Overhearing()
    control = ControlPlane(f"unix:{folder}/ads.sock")
    await control.start()
    try:
        async with processor_serving(processor, address):
            (folder / "nothing.yaml").write_text("")
            await control.apply(load(folder / "nothing.yaml", gateway))
            start = bootstrap("test", f"unix:{folder}/ads.sock")
            async with (
                running_envoy(start, folder, log_level="info") as envoy,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session,
            ):
                yield World(folder, pods, processor, envoy, control, gateway, session, f"http://127.0.0.1:{port}")
    finally:
        await control.stop()
        await pods.stop()


@asynccontextmanager
async def http2_front(folder: Path, authority: Authority, server: str) -> AsyncIterator[tuple[Envoy, str]]:
    """An Envoy that speaks only HTTP/2 over TLS, before a plain server; and its address."""
    certificate, key = authority.files(folder)
    host, _, number = server.rpartition(":")
    port = free_port()
    tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    manager = {
        "@type": hcm,
        "stat_prefix": "front",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
    }
    chain = {
        "filters": [{"name": "hcm", "typed_config": manager}],
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": tls,
                "common_tls_context": {"tls_certificates": [pair], "alpn_protocols": ["h2"]},
            },
        },
    }
    config = {
        "static_resources": {
            "listeners": [{"name": "front", "address": _socket("127.0.0.1", port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": "server",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "server",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, int(number))}}]}],
                    },
                }
            ],
        }
    }
    async with running_envoy(config, folder, log_level="warning") as envoy:
        yield envoy, f"127.0.0.1:{port}"


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


async def start(there: World, authority: Authority, *names: str) -> None:
    await there.pods.start(*names, tls=authority.server(there.folder))


def local(there: World, name: str) -> list[dict[str, Any]]:
    """A pool of one pod, which must be started."""
    return [
        model_pool(name, pods={"selector": {"matchLabels": {"app": name}}}),
        pod(f"{name}-0", there.pods.addresses[name], name),
    ]


def error_code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])
