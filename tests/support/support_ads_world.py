"""A control plane with hand-made resources, an Envoy on it, and upstreams that answer with their name."""

import contextlib

from aiohttp import web
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401  # known to Any
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from google.protobuf.json_format import ParseDict
from support_net import free_port, wait_until
from support_snapshots import snapshot

from ralb_operator.publish import Publisher
from ralb_operator.serving import serve
from ralb_operator.snapshots import SnapshotServer
from ralb_operator.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource, Resources
from ralb_operator.xds.server import AdsServer

TYPE = "type.googleapis.com/"
MESSAGES = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
}
BY_ADS = {"ads": {}, "resource_api_version": "V3"}


def made(type_url, data):
    name = data.get("cluster_name") or data["name"]
    return Resource.of(type_url, name, ParseDict(data, MESSAGES[type_url]()).SerializeToString(deterministic=True))


def cluster(name, **more):
    return made(
        CLUSTER,
        {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": BY_ADS}, **more},
    )


def endpoints(name, *ports, host="127.0.0.1"):
    each = [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}} for port in ports]
    return made(ENDPOINTS, {"cluster_name": name, "endpoints": [{"lb_endpoints": each}]})


def listener(port, **more):
    hcm = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main",
        "rds": {"route_config_name": "main", "config_source": BY_ADS},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    chain = {"filters": [{"name": "hcm", "typed_config": hcm}]}
    return made(LISTENER, {"name": "main", "address": address, "filter_chains": [chain], **more})


def routes(**clusters):
    """``/name`` goes to the cluster of that name; more by ``path=cluster``; ``default`` takes the rest."""
    default = clusters.pop("default", None)
    each = [
        {"match": {"prefix": f"/{path}"}, "route": {"cluster": name, "timeout": "5s"}}
        for path, name in clusters.items()
    ]
    if default:
        each.append({"match": {"prefix": "/"}, "route": {"cluster": default, "timeout": "5s"}})
    return made(
        ROUTES,
        {
            "name": "main",
            "validate_clusters": True,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": each}],
        },
    )


class World:
    """A control plane, an Envoy on it, and upstreams that answer with their name."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"unix:{folder}/xds.sock"
        self.port = free_port()
        self.upstreams = {}
        self.session = None
        self.envoy = None
        self.serving = None
        self.versions = 0

    async def control_plane(self, **options):
        """Start a new one, as a new process would: it knows nothing."""
        self.ads, self.snapshots = AdsServer(), SnapshotServer()
        self.publisher = Publisher(self.ads, self.snapshots, **{"grace": 0.2, **options})
        self.serving = await serve(self.address, self.ads, self.snapshots)

    async def stop_control_plane(self):
        await self.publisher.close()
        await self.serving.stop(0.2)

    async def publish(self, *resources):
        self.versions += 1
        return await self.publisher.publish(Resources.of(resources), snapshot(f"v{self.versions}"))

    async def connected(self):
        await wait_until(lambda: self.ads.nodes())

    async def get(self, path="/"):
        """Status and body of one request through Envoy."""
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, await response.text()

    async def answers(self, path, text):
        await wait_until(lambda: self._is(path, (200, text)), what=f"{path} answered by {text}")

    async def _is(self, path, expected):
        return await self.get(path) == expected


@contextlib.asynccontextmanager
async def upstream(name):
    """An HTTP server that answers everything with its name; yields its port."""

    async def answer(_):
        return web.Response(text=name)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def base(world, *more, default="a", **paths):
    """Pool ``a`` on upstream one, pool ``b`` on upstream two, routes to both; ``more`` replaces or adds."""
    up = world.upstreams
    own = {
        (r.type_url, r.name): r
        for r in (
            cluster("a"),
            cluster("b"),
            endpoints("a", up["one"]),
            endpoints("b", up["two"]),
            listener(world.port),
            routes(a="a", b="b", default=default, **paths),
        )
    }
    own.update({(r.type_url, r.name): r for r in more})
    return own.values()


def only_b(world):
    return (
        cluster("b"),
        endpoints("b", world.upstreams["two"]),
        listener(world.port),
        routes(default="b"),
    )
