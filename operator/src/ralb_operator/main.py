"""``ralb-operator``: follows a Kubernetes cluster and serves its gateways."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from ralb_api import __version__
from ralb_api.logs import configure
from ralb_operator import bootstrap_command
from ralb_operator.cluster import tls
from ralb_operator.cluster.admin import attach
from ralb_operator.cluster.app import Operator, Options
from ralb_operator.cluster.credentials import CredentialsError
from ralb_operator.view import Gateway

_LOG = logging.getLogger(__name__)

_RUN: Final = "run"


def parser() -> argparse.ArgumentParser:
    """The command line, with its subcommands."""
    made = argparse.ArgumentParser(prog="ralb-operator", description=__doc__)
    made.add_argument("--version", action="version", version=f"ralb {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(_RUN, help="follow a cluster and serve its gateways (the default)", description=__doc__)
    _run_flags(run)
    bootstrap_command.add_command(commands)
    return made


def _run_flags(run: argparse.ArgumentParser) -> None:
    settings = Gateway()
    run.add_argument(
        "--listen",
        default="0.0.0.0:9300",
        metavar="HOST:PORT",
        help="where Envoys and processors connect (default %(default)s)",
    )
    run.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NS",
        help="look at this namespace only; may be repeated (default: all namespaces)",
    )
    run.add_argument("--kubeconfig", default="", metavar="FILE", help="default: the pod's service account")
    run.add_argument(
        "--identity",
        default=os.environ.get("POD_NAME") or socket.gethostname(),
        metavar="NAME",
        help="name of this replica (default: $POD_NAME, else the host's name)",
    )
    run.add_argument(
        "--own-namespace",
        default=os.environ.get("POD_NAMESPACE") or "default",
        metavar="NS",
        help="where the operator keeps its Leases (default: $POD_NAMESPACE)",
    )
    run.add_argument(
        "--pod-uid",
        default=os.environ.get("POD_UID") or "",
        metavar="UID",
        help="of the operator's own pod, so that what it leaves in the cluster goes with it (default: $POD_UID)",
    )
    run.add_argument(
        "--admin-address",
        default="127.0.0.1",
        metavar="IP",
        help="where /metrics, /healthz and /readyz are served (default %(default)s)",
    )
    run.add_argument("--admin-port", type=_port, default=9301, metavar="PORT", help="default %(default)s")
    gateway = run.add_argument_group("gateways", "what every gateway is configured with")
    gateway.add_argument("--gateway-address", default="0.0.0.0", metavar="IP", help="default %(default)s")
    gateway.add_argument(
        "--gateway-port", type=_port, default=settings.port, metavar="PORT", help="default %(default)s"
    )
    gateway.add_argument(
        "--processor-socket",
        default=settings.processor,
        metavar="ADDRESS",
        help="where Envoy finds its processor (default %(default)s)",
    )
    gateway.add_argument(
        "--max-body-bytes",
        type=_positive,
        default=settings.max_body_bytes,
        metavar="BYTES",
        help="larger requests get 413 (default %(default)s)",
    )
    tls.add_arguments(run)
    run.add_argument("--json-logs", action="store_true", help="log lines as JSON")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number between 1 and 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def options(args: argparse.Namespace) -> Options:
    """What the flags of ``run`` mean."""
    return Options(
        listen=args.listen,
        kubeconfig=args.kubeconfig,
        namespaces=tuple(dict.fromkeys(args.namespace)),
        identity=args.identity,
        own_namespace=args.own_namespace,
        gateway=Gateway(
            address=args.gateway_address,
            port=args.gateway_port,
            processor=args.processor_socket,
            max_body_bytes=args.max_body_bytes,
        ),
    )


async def _run(args: argparse.Namespace) -> int:
    try:
        trust = tls.OperatorTls(tls.options_of(args), args.own_namespace)
    except ValueError as error:
        _LOG.error("ralb-operator ends: %s", error)
        return 2
    operator = Operator(options(args), trust.server)
    attached = attach(operator, address=args.admin_address, port=args.admin_port, pod_uid=args.pod_uid)
    if trust.server is not None:
        operator.companions.append(lambda: trust.run(operator.client, lambda: attached.reporter.elector.leading))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await operator.run(stop)
    except (RuntimeError, OSError, ValueError, CredentialsError) as error:
        _LOG.error("ralb-operator ends: %s", error)
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    made = parser()
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, _RUN)
    args = made.parse_args(arguments)
    if args.command == bootstrap_command.NAME:
        return bootstrap_command.run(args)
    configure(json_lines=args.json_logs)
    return asyncio.run(_run(args))


if __name__ == "__main__":
    sys.exit(main())
