"""``ralb-operator bootstrap``: writes what Envoy starts with, in the gateway pod, before Envoy's container starts.

It asks nobody anything: all is in its flags, so that a gateway comes up while operator and API server are away.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from ralb_operator.bootstrap import ClientTls, bootstrap, sds_files

NAME: Final = "bootstrap"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand; ``run`` takes what it parses."""
    command = commands.add_parser(NAME, help="write the config that Envoy starts with", description=__doc__)
    command.add_argument("--out", required=True, metavar="FILE", help="file to write, with others beside it for TLS")
    command.add_argument("--node-id", required=True, metavar="NAME", help="unique per Envoy: the pod's name")
    command.add_argument(
        "--operator", "--ads", required=True, metavar="HOST:PORT", help="the operator's gRPC address, or unix:/path"
    )
    command.add_argument("--tls-dir", metavar="DIR", help="folder with tls.crt, tls.key and ca.crt (default: in clear)")
    command.add_argument(
        "--tls-server-name", default="", metavar="NAME", help="name in the operator's certificate (default: its host)"
    )
    command.add_argument("--admin-port", type=int, default=9901, metavar="PORT", help="on loopback (default 9901)")
    command.add_argument(
        "--probe-address", default="0.0.0.0", metavar="IP", help="where /ready and /stats/prometheus are to be had"
    )
    command.add_argument(
        "--probe-port", type=int, default=9902, metavar="PORT", help="its port, 0 = none (default 9902)"
    )
    command.add_argument(
        "--max-heap-bytes", type=int, default=2 * 1024**3, metavar="BYTES", help="near it, Envoy sheds (default 2 GiB)"
    )
    command.add_argument("--max-connections", type=int, default=50_000, metavar="N", help="of clients (default 50000)")
    command.add_argument("--cluster", default="ralb", metavar="NAME", help="name of the group of Envoys")


def run(args: argparse.Namespace) -> int:
    """Write the files; returns the exit code."""
    out = Path(args.out).absolute()
    try:
        files = _files(args, out)
        for path, content in files.items():
            path.write_text(json.dumps(content, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"ralb-operator bootstrap: {error}", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(map(str, files))}", file=sys.stderr)
    return 0


def _files(args: argparse.Namespace, out: Path) -> dict[Path, dict[str, Any]]:
    tls = None
    if args.tls_dir:
        name = args.tls_server_name or args.operator.rpartition(":")[0]
        tls = ClientTls(name, Path(args.tls_dir).absolute(), out.parent)
    config = bootstrap(
        args.node_id,
        args.operator,
        admin_port=args.admin_port,
        cluster=args.cluster,
        max_connections=args.max_connections,
        max_heap_bytes=args.max_heap_bytes,
        tls=tls,
        probe_address=args.probe_address,
        probe_port=args.probe_port,
    )
    beside = {out.parent / name: content for name, content in sds_files(tls).items()} if tls else {}
    # The one that Envoy is started with comes last: where it is, all are.
    return {**beside, out: config}
