"""Who may lead."""

import asyncio
import contextlib
from pathlib import Path

from support_fake_api import FakeApi
from support_net import wait_until

from ralb_operator.cluster.client import ApiClient
from ralb_operator.cluster.reporter import LEASE, Reporter, Settings
from ralb_operator.cluster.store import Store
from ralb_operator.control import ControlPlane
from ralb_operator.view import View


async def test_a_replica_that_has_nothing_to_say_does_not_lead(api: FakeApi, client: ApiClient, tmp_path: Path) -> None:
    """One that cannot list something would hold the Lease, write nothing, and keep from writing those who can."""
    control = ControlPlane(f"unix:{tmp_path}/s")
    reporter = Reporter(client, control, Store(), Settings("ns", "me"))
    task = asyncio.create_task(reporter.run())
    try:
        await wait_until(lambda: reporter.reports.written, what="it runs")
        assert not reporter.elector.leading
        assert not [path for _, path, _ in api.requests if path.endswith(f"/{LEASE}")]
        view = View()
        reporter.on_applied(await control.apply(view), view)
        await wait_until(lambda: reporter.elector.leading)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await control.stop()
