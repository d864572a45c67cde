"""The flags of the picker."""

import argparse
from dataclasses import dataclass
from typing import Final

OFF: Final = "off"
SELF_SIGNED: Final = "self-signed"
DIRECTORY: Final = "dir:"


@dataclass(frozen=True, slots=True)
class PickerOptions:
    """How to pick.

    Attributes:
        pools: (address to listen on, pool id), one port per pool.
        tls: ``off``, ``self-signed`` or ``dir:PATH``.
        health_listen: address of the health service alone, without TLS; "" for none.
        sheddable: names of InferenceObjectives and workload classes whose requests may wait.
        drain_least: seconds for which it goes on as before when it is told to stop, but says that it is not ready.
        drain_most: seconds open requests have to end in, those included.
    """

    pools: tuple[tuple[str, str], ...]
    tls: str = SELF_SIGNED
    health_listen: str = ""
    sheddable: frozenset[str] = frozenset()
    drain_least: float = 0.0
    drain_most: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to the command's."""
    group = parser.add_argument_group(
        "endpoint picker", "Serve as the endpointPickerRef of InferencePools (Endpoint Picker Protocol)."
    )
    group.add_argument(
        "--epp-pool",
        action="append",
        default=[],
        metavar="NAMESPACE/NAME",
        help="the ModelPool among whose pods is picked; may be repeated, each with an --epp-listen of its own",
    )
    group.add_argument(
        "--epp-listen",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="where gateways call for that pool, host:port (default 0.0.0.0:9002)",
    )
    group.add_argument(
        "--epp-tls",
        default=SELF_SIGNED,
        metavar="MODE",
        help="off, self-signed (default) or dir:PATH with tls.crt and tls.key",
    )
    group.add_argument(
        "--epp-health-listen",
        default="",
        metavar="ADDRESS",
        help="also serve gRPC health checks there without TLS, by convention 0.0.0.0:9003",
    )
    group.add_argument(
        "--epp-sheddable",
        action="append",
        default=[],
        metavar="NAME",
        help="InferenceObjective or workload class whose requests get 429 when the pool is full; may be repeated",
    )
    group.add_argument(
        "--epp-drain-min",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="when told to stop, take calls for this long yet: until gateways have noticed (default 5)",
    )
    group.add_argument(
        "--epp-drain-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="when told to stop, wait this long for open requests, whose answers pass here (default 300)",
    )


def options_of(args: argparse.Namespace) -> PickerOptions | None:
    """What the flags say; None if no pool is asked for.

    Raises:
        ValueError: flags that do not go together; the text says what to do.
    """
    pools: list[str] = args.epp_pool
    listen: list[str] = args.epp_listen
    if not pools:
        if listen or args.epp_health_listen:
            raise ValueError("--epp-listen and --epp-health-listen need an --epp-pool")
        return None
    for pool in pools:
        if pool.count("/") != 1 or not all(pool.split("/")):
            raise ValueError(f"--epp-pool is NAMESPACE/NAME, not {pool!r}")
    if len(set(pools)) < len(pools):
        raise ValueError("--epp-pool names a pool twice")
    if len(pools) == 1 and not listen:
        listen = ["0.0.0.0:9002"]
    if len(listen) != len(pools):
        raise ValueError("give every --epp-pool its own --epp-listen, in the same order")
    for address in (*listen, *filter(None, [args.epp_health_listen])):
        _check_address(address)
    least, most = args.epp_drain_min, args.epp_drain_timeout
    if not 0 <= least <= most:
        raise ValueError(f"--epp-drain-min ({least:g}) must be 0 to --epp-drain-timeout ({most:g})")
    return PickerOptions(
        pools=tuple(zip(listen, pools, strict=True)),
        tls=args.epp_tls,
        health_listen=args.epp_health_listen,
        sheddable=frozenset(args.epp_sheddable),
        drain_least=least,
        drain_most=most,
    )


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not address.startswith("unix:") and not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"an address to listen on is host:port, not {address!r}")
