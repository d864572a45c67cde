"""Mutual TLS between gateway and operator with everything real: who gets in, who does not, and what a rotation does."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from cryptography import x509
from support_envoy import Envoy, running_envoy
from support_net import free_port, wait_until
from support_snapshots import snapshot
from support_trust import (
    GATEWAY_NAMES,
    SERVER_NAME,
    MountedSecret,
    TestAuthority,
    keeper_of,
    keeper_of_expired,
)

from ralb.v1 import snapshot_pb2 as pb
from ralb.v1 import snapshot_pb2_grpc
from ralb_api.tls import CA_FILE, CERT_FILE, KEY_FILE, Directory, Keeper
from ralb_cli.stack.processes import Child
from ralb_extproc.snapshots import ClientTls as ProcessorTls
from ralb_extproc.snapshots import SnapshotFollower
from ralb_operator.bootstrap import ClientTls, bootstrap, sds_files
from ralb_operator.certs import Pair
from ralb_operator.publish import Publisher
from ralb_operator.serving import Serving, serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.tls import ServerTls
from ralb_operator.xds.resources import Resources
from ralb_operator.xds.server import AdsServer

pytestmark = pytest.mark.envoy


class Operator:
    """The operator's gRPC server with an empty config, on a port that stays the same over restarts."""

    def __init__(self, keeper: Keeper, clients: tuple[str, ...] = GATEWAY_NAMES) -> None:
        self.tls = ServerTls(keeper, clients)
        self.port = free_port()
        self.ads, self.snapshots = AdsServer(), SnapshotServer()
        self._serving: Serving | None = None
        self._publisher: Publisher | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """As a new process: connections of before are over."""
        self.ads, self.snapshots = AdsServer(), SnapshotServer()
        self._serving = await serve(self.address, self.ads, self.snapshots, self.tls)
        self._publisher = Publisher(self.ads, self.snapshots)
        await self._publisher.publish(Resources.of(()), snapshot("v1"))

    async def stop(self) -> None:
        assert self._publisher is not None
        assert self._serving is not None
        await self._publisher.close()
        await self._serving.stop(0)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def envoys(self) -> list[str]:
        return [node.node for node in self.ads.nodes()]

    def processors(self) -> list[str]:
        return [processor.node for processor in self.snapshots.processors()]


@asynccontextmanager
async def operator_with(keeper: Keeper, clients: tuple[str, ...] = GATEWAY_NAMES) -> AsyncIterator[Operator]:
    operator = Operator(keeper, clients)
    await operator.start()
    try:
        yield operator
    finally:
        await operator.stop()


@asynccontextmanager
async def envoy_of(
    operator: Operator, mounted: MountedSecret, folder: Path, *, wait_ready: bool = True
) -> AsyncIterator[Envoy]:
    sds = folder / "sds"
    sds.mkdir()
    tls = ClientTls(SERVER_NAME, mounted.folder, sds)
    for name, content in sds_files(tls).items():
        (sds / name).write_text(json.dumps(content))
    start = bootstrap("envoy", operator.address, tls=tls, reconnect_max_s=0.25)
    async with running_envoy(start, folder, wait_ready=wait_ready, log_level="warning") as envoy:
        yield envoy


@asynccontextmanager
async def follower_of(operator: Operator, folder: Path) -> AsyncIterator[SnapshotFollower]:
    keeper = Keeper(str(folder))
    directory = Directory(folder, keeper, interval=0.02)
    applied: list[str] = []
    follower = SnapshotFollower(
        operator.address, "processor", lambda snap: applied.append(snap.version), ProcessorTls(keeper, SERVER_NAME)
    )
    tasks = [asyncio.create_task(directory.run()), asyncio.create_task(follower.run())]
    try:
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def watch(operator: Operator, ca: bytes, client: Pair | None) -> grpc.StatusCode | None:
    """Ask for a snapshot; None if it came."""
    credentials = grpc.ssl_channel_credentials(ca, client.key if client else None, client.cert if client else None)
    options = [("grpc.ssl_target_name_override", SERVER_NAME)]
    async with grpc.aio.secure_channel(operator.address, credentials, options=options) as channel:
        call = snapshot_pb2_grpc.SnapshotServiceStub(channel).Watch()
        try:
            await call.write(pb.WatchRequest(node_id="asks"))
            answer = await asyncio.wait_for(call.read(), 10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            call.cancel()
        assert answer.version == "v1"
        return None


async def test_gateway_with_its_certificates_is_served(tmp_path: Path) -> None:
    authority = TestAuthority()
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(authority.gateway(), authority.ca)
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(operator_with(keeper_of(authority.operator(), authority.ca)))
        envoy = await stack.enter_async_context(envoy_of(operator, mounted, tmp_path))
        follower = await stack.enter_async_context(follower_of(operator, mounted.folder))
        await wait_until(lambda: follower.version == "v1")
        assert operator.envoys() == ["envoy"]
        stats = await envoy.stats("cluster.ralb-xds.ssl.(versions|handshake)")
        assert stats["cluster.ralb-xds.ssl.versions.TLSv1.3"] == stats["cluster.ralb-xds.ssl.handshake"] == 1


@pytest.mark.parametrize(
    ("client", "code"),
    [
        (lambda own, other: own.gateway(), None),
        (lambda own, other: None, grpc.StatusCode.UNAVAILABLE),
        (lambda own, other: other.gateway(), grpc.StatusCode.UNAVAILABLE),
        (lambda own, other: own.expired_gateway(), grpc.StatusCode.UNAVAILABLE),
        (lambda own, other: own.operator(), grpc.StatusCode.UNAVAILABLE),
        (lambda own, other: own.gateway("x.ralb-gateway"), grpc.StatusCode.PERMISSION_DENIED),
        (lambda own, other: own.gateway("someone.else.svc"), grpc.StatusCode.UNAVAILABLE),
    ],
    ids=["good", "none", "other-authority", "expired", "not-a-client", "not-by-name", "beyond-name-constraints"],
)
async def test_who_may_call(
    client: Callable[[TestAuthority, TestAuthority], Pair | None], code: grpc.StatusCode | None
) -> None:
    own, other = TestAuthority("own"), TestAuthority("other")
    async with operator_with(keeper_of(own.operator(), own.ca)) as operator:
        assert await watch(operator, own.ca, client(own, other)) is code
        assert not operator.snapshots.sent or code is None


async def test_without_names_every_client_of_the_authority_may_call() -> None:
    own = TestAuthority()
    async with operator_with(keeper_of(own.operator(), own.ca), clients=()) as operator:
        assert await watch(operator, own.ca, own.gateway("x.ralb-gateway")) is None


async def test_discovery_asks_for_the_name_too(tmp_path: Path) -> None:
    own = TestAuthority()
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(own.gateway("x.ralb-gateway"), own.ca)
    async with (
        operator_with(keeper_of(own.operator(), own.ca)) as operator,
        envoy_of(operator, mounted, tmp_path, wait_ready=False) as envoy,
    ):
        await wait_until(lambda: _at_least(envoy, "cluster.ralb-xds.upstream_rq_total", 2))
        assert operator.envoys() == []
        pair = own.gateway()
        mounted.put(pair, own.ca)
        await wait_until(lambda: _uses(envoy, pair.cert, own.ca))
        await operator.restart()
        await wait_until(lambda: operator.envoys() == ["envoy"])


@pytest.mark.parametrize("bad", ["authority", "expired", "name"])
async def test_gateway_refuses_a_false_operator(bad: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, other = TestAuthority("own"), TestAuthority("other")
    # The false one takes any client, to be sure that it is the gateway that refuses.
    keeper = {
        "authority": lambda: keeper_of(other.operator(), own.ca),
        "expired": lambda: keeper_of_expired(own.expired_operator(), own.ca),
        "name": lambda: keeper_of(own.gateway(), own.ca),
    }[bad]()
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(own.gateway(), own.ca)
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(operator_with(keeper))
        envoy = await stack.enter_async_context(envoy_of(operator, mounted, tmp_path, wait_ready=False))
        follower = await stack.enter_async_context(follower_of(operator, mounted.folder))
        await wait_until(lambda: follower.trouble)
        await wait_until(lambda: _at_least(envoy, "cluster.ralb-xds.upstream_cx_connect_fail", 2))
        await wait_until(lambda: "no way to the operator" in caplog.text)
        assert follower.version == ""
        assert operator.envoys() == operator.processors() == []


async def test_rotation_of_everything_without_restart(tmp_path: Path) -> None:
    """From one authority to another by way of trusting both; after each step new connections of all are made."""
    old, new = TestAuthority("old"), TestAuthority("new")
    both = new.ca + old.ca
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(old.gateway(), old.ca)
    keeper = keeper_of(old.operator(), old.ca)
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(operator_with(keeper))
        envoy = await stack.enter_async_context(envoy_of(operator, mounted, tmp_path))
        follower = await stack.enter_async_context(follower_of(operator, mounted.folder))

        async def all_connect() -> None:
            await operator.restart()
            await wait_until(lambda: operator.envoys() == ["envoy"], what="Envoy connected anew")
            await wait_until(lambda: operator.processors() == ["processor"], what="processor connected anew")

        async def gateway_gets(pair: Pair, ca: bytes) -> None:
            mounted.put(pair, ca)
            await wait_until(lambda: _uses(envoy, pair.cert, ca), what="Envoy read it")

        async def operator_gets(pair: Pair, ca: bytes) -> None:
            keeper.offer(pair.cert, pair.key, ca)
            assert keeper.problem == ""

        await wait_until(lambda: follower.version == "v1")
        for step in (
            gateway_gets(old.gateway(), both),
            operator_gets(old.operator(), both),
            operator_gets(new.operator(), both),
            gateway_gets(new.gateway(), both),
            gateway_gets(new.gateway(), new.ca),
            operator_gets(new.operator(), new.ca),
        ):
            await step
            await all_connect()
            assert follower.version == "v1"
        assert await watch(operator, old.ca, old.gateway()) is grpc.StatusCode.UNAVAILABLE
        assert await watch(operator, new.ca, old.gateway()) is grpc.StatusCode.UNAVAILABLE
        assert await watch(operator, new.ca, new.gateway()) is None


async def test_new_material_is_used_by_the_running_server_and_standing_connections_go_on(tmp_path: Path) -> None:
    old, new = TestAuthority("old"), TestAuthority("new")
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(old.gateway(), old.ca)
    keeper = keeper_of(old.operator(), old.ca)
    async with operator_with(keeper) as operator, envoy_of(operator, mounted, tmp_path) as envoy:
        for authority in (new, old, new):
            pair = authority.operator()
            keeper.offer(pair.cert, pair.key, authority.ca)
            other = old if authority is new else new
            assert await watch(operator, authority.ca, authority.gateway()) is None
            assert await watch(operator, authority.ca, other.gateway()) is grpc.StatusCode.UNAVAILABLE
        operator.snapshots.set(snapshot("v2"))
        assert operator.envoys() == ["envoy"]
        assert (await envoy.stats("cluster.ralb-xds.upstream_cx_total"))["cluster.ralb-xds.upstream_cx_total"] == 1


async def test_bad_material_changes_nothing_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, other = TestAuthority("own"), TestAuthority("other")
    mounted = MountedSecret(tmp_path / "tls")
    mounted.put(own.gateway(), own.ca)
    server = MountedSecret(tmp_path / "server")
    server.put(own.operator(), own.ca)
    keeper = Keeper("server")
    directory = Directory(server.folder, keeper)
    await directory.look()
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(operator_with(keeper))
        envoy = await stack.enter_async_context(envoy_of(operator, mounted, tmp_path))
        follower = await stack.enter_async_context(follower_of(operator, mounted.folder))
        await wait_until(lambda: follower.version == "v1")
        files = {CERT_FILE: other.gateway().cert, KEY_FILE: other.gateway().key, CA_FILE: own.ca}
        mounted.put_files(files)  # a key of another certificate
        server.put_files(files)
        await directory.look()
        assert "not the key" in keeper.problem
        await wait_until(lambda: _at_least(envoy, "sds.certificate.key_rotation_failed", 1))
        # The name that docs/trust.md gives.
        series = [line for line in (await envoy.get("/stats/prometheus")).splitlines() if "key_rotation_failed" in line]
        assert any(line.startswith("envoy_sds_key_rotation_failed{") for line in series), series
        await wait_until(lambda: caplog.text.count("is not the key") >= 2)
        await operator.restart()
        await wait_until(lambda: operator.envoys() == ["envoy"])
        await wait_until(lambda: operator.processors() == ["processor"])


async def test_processor_command_with_tls(tmp_path: Path) -> None:
    own = TestAuthority()
    mounted = MountedSecret(tmp_path / "tls")
    admin = free_port()
    command = [
        *(sys.executable, "-m", "ralb_extproc.main", "--listen", f"unix:{tmp_path}/p.sock", "--records", ""),
        *("--admin-port", str(admin), "--tls-dir", str(mounted.folder), "--tls-server-name", SERVER_NAME),
    ]
    async with operator_with(keeper_of(own.operator(), own.ca)) as operator, aiohttp.ClientSession() as session:
        child = Child("processor", [*command, "--operator", operator.address], log=tmp_path / "p.log")
        await child.start()
        try:

            async def page(path: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{admin}{path}") as answer:
                    return answer.status, await answer.text()

            async def says() -> bool:
                return "no TLS material" in (await page("/readyz"))[1]

            await wait_until(says, 30)
            assert "ralb_tls_material_bad 1.0" in (await page("/metrics"))[1]
            mounted.put(own.gateway(), own.ca)

            async def ready() -> bool:
                return (await page("/readyz"))[0] == 200

            await wait_until(ready, 20)
            metrics = (await page("/metrics"))[1]
            assert "ralb_tls_material_bad 0.0" in metrics
            assert "ralb_tls_material_accepted_total 1.0" in metrics
        finally:
            await child.stop()
        assert "PRIVATE" not in (tmp_path / "p.log").read_text()


@pytest.mark.parametrize(
    ("version", "works"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_versions_of_tls(version: ssl.TLSVersion, works: bool, tmp_path: Path) -> None:
    own = TestAuthority()
    pair = own.gateway()
    (tmp_path / "both.pem").write_bytes(pair.cert + pair.key)
    context = ssl.create_default_context(cadata=own.ca.decode())
    context.load_cert_chain(tmp_path / "both.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["http/1.1", "h2"])
    if version is ssl.TLSVersion.TLSv1_1:
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = version
    else:
        context.minimum_version = context.maximum_version = version
    async with operator_with(keeper_of(own.operator(), own.ca)) as operator:
        connect = asyncio.open_connection("127.0.0.1", operator.port, ssl=context, server_hostname=SERVER_NAME)
        if not works:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect
            return
        _, writer = await connect
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        writer.transport.abort()


async def test_unix_socket_stays_in_clear(tmp_path: Path) -> None:
    ads, snapshots = AdsServer(), SnapshotServer()
    serving = await serve(f"unix:{tmp_path}/ads.sock", ads, snapshots)
    publisher = Publisher(ads, snapshots)
    try:
        await publisher.publish(Resources.of(()), snapshot("v1"))
        async with running_envoy(bootstrap("plain", serving.address), tmp_path):
            assert [node.node for node in ads.nodes()] == ["plain"]
    finally:
        await publisher.close()
        await serving.stop(0)


async def _uses(envoy: Envoy, cert: bytes, ca: bytes) -> bool:
    """Whether Envoy has these, and no others, by serial number."""
    wanted = sorted(each.serial_number for each in x509.load_pem_x509_certificates(cert + ca))
    page = await envoy.get_json("/certs")
    found = [
        int(one["serial_number"], 16)
        for entry in page["certificates"]
        for one in entry["ca_cert"] + entry["cert_chain"]
    ]
    return sorted(set(found)) == wanted


async def _at_least(envoy: Envoy, name: str, least: int) -> bool:
    return sum((await envoy.stats(name)).values()) >= least
