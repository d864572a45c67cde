"""What of Envoy's admin interface can be reached from outside the pod, and that the bootstrap command makes it so."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from support_envoy import running_envoy, validate
from support_net import free_ports, wait_until
from support_snapshots import snapshot
from support_trust import MountedSecret, TestAuthority
from yarl import URL

from ralb_operator import main as command
from ralb_operator.publish import Publisher
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.resources import Resources
from ralb_operator.xds.server import AdsServer

pytestmark = pytest.mark.envoy


def write(folder: Path, *arguments: str) -> Path:
    out = folder / "envoy.json"
    assert command.main(["bootstrap", "--out", str(out), "--node-id", "gateway-0", *arguments]) == 0
    return out


async def test_ready_and_metrics_and_nothing_else(tmp_path: Path) -> None:
    admin, probes = free_ports(2)
    ads, snapshots = AdsServer(), SnapshotServer()
    serving = await serve(f"unix:{tmp_path}/ads.sock", ads, snapshots)
    out = write(tmp_path, "--operator", serving.address, "--admin-port", str(admin), "--probe-port", str(probes))
    folder = tmp_path / "envoy"
    folder.mkdir()
    base = f"http://127.0.0.1:{probes}"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(serving.stop, 0)
        publisher = Publisher(ads, snapshots)
        stack.push_async_callback(publisher.close)
        await publisher.publish(Resources.of(()), snapshot("v1"))
        start = json.loads(out.read_text())
        envoy = await stack.enter_async_context(running_envoy(start, folder, admin_port=admin))
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def status(path: str, method: str = "GET", **more: object) -> int:
            async with session.request(method, URL(base + path, encoded=True), allow_redirects=False, **more) as answer:  # type: ignore[arg-type]
                await answer.read()
                return answer.status

        await wait_until(lambda: status("/ready"))
        assert await status("/ready") == 200
        async with session.get(base + "/stats/prometheus") as answer:
            assert answer.status == 200
            assert "envoy_server_uptime" in await answer.text()
        for path in (
            *("/", "/ready/", "/ready/x", "/ready?x", "/stats", "/stats/prometheus?filter=.*", "/stats/prometheus/"),
            *("/quitquitquit", "/config_dump", "/certs", "/clusters", "/server_info", "/logging", "/listeners"),
            *("/stats/recentlookups", "/runtime", "/READY", "//ready", "/ready%2f..%2fconfig_dump", "/ready/../certs"),
        ):
            assert await status(path) == 404, path
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert await status("/ready", method) == 404, method
            assert await status("/stats/prometheus", method) == 404, method
        assert await status("/quitquitquit", "POST") == 404
        assert await status("/healthcheck/fail", "POST") == 404
        assert await status("/config_dump", headers={"x-envoy-original-path": "/ready"}) == 404
        assert envoy.process.returncode is None
        await envoy.post("/healthcheck/fail")
        assert await status("/ready") == 503


@pytest.mark.parametrize("tls", [False, True])
def test_bootstrap_command_writes_what_envoy_takes(tls: bool, tmp_path: Path) -> None:
    more: list[str] = []
    if tls:
        authority = TestAuthority()
        mounted = MountedSecret(tmp_path / "tls")
        mounted.put(authority.gateway(), authority.ca)
        more = ["--tls-dir", str(mounted.folder)]
    out = write(tmp_path, "--ads", "ralb-operator.ralb.svc:9300", "--max-heap-bytes", "100000000", *more)
    assert ("sds-certificate.json" in [each.name for each in tmp_path.iterdir()]) is tls
    result = validate(json.loads(out.read_text()), tmp_path)
    assert result.returncode == 0, result.stderr
    text = "".join(each.read_text() for each in tmp_path.glob("*.json"))
    assert "PRIVATE" not in text
    if tls:
        assert '"sni": "ralb-operator.ralb.svc"' in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--operator", "nowhere"], "host:port"),
        (["--operator", "x:1", "--admin-port", "0"], "probe_port needs a fixed admin_port"),
        (["--operator", "x:1", "--probe-port", "9901"], "another one than itself"),
        (["--operator", "x:1", "--probe-address", "localhost"], "probe_address must be an IP"),
        (["--operator", "10.0.0.1:1", "--tls-dir", "/etc/x"], "must be a DNS name"),
    ],
)
def test_bootstrap_command_says_what_is_wrong(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["bootstrap", "--out", str(tmp_path / "e.json"), "--node-id", "n", *arguments]) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_bootstrap_command_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "missing" / "e.json"
    assert command.main(["bootstrap", "--out", str(out), "--node-id", "n", "--operator", "x:1"]) == 1
    assert "No such file" in capsys.readouterr().err
