"""A whole installation's trust: operator processes that make the certificates, and a gateway that mounts its Secret."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support_cluster import ControlPlane
from support_envoy import running_envoy
from support_net import free_port, wait_until
from support_trust import MountedSecret

from ralb_cli.stack.processes import Child
from ralb_operator import main as command
from ralb_operator.cluster.certificates import decoded

pytestmark = [pytest.mark.envoy, pytest.mark.usefixtures("crds")]


@asynccontextmanager
async def process(name: str, folder: Path, *arguments: str) -> AsyncIterator[Child]:
    child = Child(name, [sys.executable, "-m", *arguments], log=folder / f"{name}.log")
    await child.start()
    try:
        yield child
    finally:
        await child.stop()


async def page(port: int, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        text = await answer.text()
        return text if answer.status == 200 else ""


async def test_gateway_and_operators_find_each_other(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    def secret(name: str) -> dict[str, Any]:
        found = control_plane.kubectl("get", "secret", name, "-n", namespace, "-o", "json").stdout
        return json.loads(found)  # type: ignore[no-any-return]

    async def get_secret(name: str) -> dict[str, Any]:
        return await asyncio.to_thread(secret, name)

    ports = {name: (free_port(), free_port()) for name in ("operator-a", "operator-b")}
    async with AsyncExitStack() as stack:
        # Both at once, as a Deployment starts them.
        for name, (port, admin) in ports.items():
            await stack.enter_async_context(
                process(
                    name,
                    tmp_path,
                    *("ralb_operator.main", "run", "--listen", f"127.0.0.1:{port}", "--admin-port", str(admin)),
                    *("--kubeconfig", str(control_plane.kubeconfig_file), "--identity", name),
                    *("--namespace", namespace, "--own-namespace", namespace, "--tls", "bootstrap"),
                )
            )
        for _, admin in ports.values():
            await wait_until(lambda admin=admin: page(admin, "/readyz"), 60, interval=0.2, what="operator ready")
            assert "ralb_tls_material_bad 0.0" in await page(admin, "/metrics")

        mounted = MountedSecret(tmp_path / "tls")
        mounted.put_files(decoded(await get_secret("ralb-gateway-tls")))
        name = f"ralb-operator.{namespace}.svc"
        for which, (port, _) in ports.items():
            folder = tmp_path / f"gateway-of-{which}"
            folder.mkdir()
            flags = ["--operator", f"127.0.0.1:{port}", "--tls-dir", str(mounted.folder), "--tls-server-name", name]
            out = folder / "start.json"
            assert command.main(["bootstrap", "--out", str(out), "--node-id", which, "--probe-port", "0", *flags]) == 0
            envoy = await stack.enter_async_context(running_envoy(json.loads(out.read_text()), folder))
            assert await envoy.ready()
            mine = free_port()
            await stack.enter_async_context(
                process(
                    f"processor-{which}",
                    folder,
                    *("ralb_extproc.main", "--listen", f"unix:{folder}/p.sock", "--records", ""),
                    *("--admin-port", str(mine), *flags),
                )
            )
            await wait_until(lambda mine=mine: page(mine, "/readyz"), 30, interval=0.2, what="processor ready")
            assert "ralb_tls_material_bad 0.0" in await page(mine, "/metrics")

        # The leader repairs what somebody deletes; both go on with what they have meanwhile, and take the new one.
        before = (await get_secret("ralb-operator-tls"))["metadata"]["uid"]
        await asyncio.to_thread(control_plane.kubectl, "delete", "secret", "ralb-operator-tls", "-n", namespace)

        async def repaired() -> bool:
            return bool((await get_secret("ralb-operator-tls"))["metadata"]["uid"] != before)

        await wait_until(repaired, 60, interval=0.5, what="Secret made anew")
        for _, admin in ports.values():

            async def taken(admin: int = admin) -> bool:
                return "ralb_tls_material_accepted_total 2.0" in await page(admin, "/metrics")

            await wait_until(taken, 20, interval=0.2, what="new material in use")
        logs = await asyncio.to_thread(lambda: [log.read_text(errors="replace") for log in tmp_path.rglob("*.log")])
        assert len(logs) >= 6
        assert not any("PRIVATE KEY" in log for log in logs)
