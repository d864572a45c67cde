import contextlib

import pytest

from ralb_operator.publish import Publisher
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.server import AdsServer


class Plane:
    """A control plane on a Unix socket."""

    def __init__(self, address, ads, snapshots, serving):
        self.address = address
        self.ads = ads
        self.snapshots = snapshots
        self.serving = serving
        self.publishers = []

    def publisher(self, **options):
        publisher = Publisher(self.ads, self.snapshots, **{"grace": 0.05, "ack_timeout": 5.0, **options})
        self.publishers.append(publisher)
        return publisher


@pytest.fixture
async def plane(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        ads, snapshots = AdsServer(), SnapshotServer()
        serving = await serve(f"unix:{tmp_path}/xds.sock", ads, snapshots)
        plane = Plane(serving.address, ads, snapshots, serving)
        stack.push_async_callback(serving.stop, 0.2)
        yield plane
        for publisher in plane.publishers:
            await publisher.close()
