"""The ``ralb-extproc`` command."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ralb_api import __version__
from ralb_api.logs import configure
from ralb_extproc import companion
from ralb_extproc.epp.options import add_arguments, options_of

if TYPE_CHECKING:
    from ralb_extproc.app import Options


def command_line() -> argparse.ArgumentParser:
    """All flags."""
    parser = argparse.ArgumentParser(prog="ralb-extproc", description="RALB's external processor for Envoy.")
    parser.add_argument("--version", action="version", version=f"ralb {__version__}")
    parser.add_argument(
        "--listen",
        default="unix:/run/ralb/extproc.sock",
        help="where Envoy calls: unix:/path or host:port; '' for nowhere",
    )
    parser.add_argument("--operator", default="127.0.0.1:9300", help="snapshot service: unix:/path or host:port")
    parser.add_argument("--admin-address", default="127.0.0.1", help="address of /metrics, /healthz, /readyz")
    parser.add_argument("--admin-port", type=int, default=9400, help="its port, 0 = any free one")
    parser.add_argument(
        "--records", default="-", help="decision records: a file, - for stdout (default), '' for nowhere"
    )
    parser.add_argument("--max-body-bytes", type=int, default=16 * 1024 * 1024, help="largest request body")
    parser.add_argument("--json-logs", action="store_true", help="log lines as JSON")
    add_arguments(parser)
    companion.add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the processor until SIGTERM or SIGINT."""
    parser = command_line()
    args = parser.parse_args(argv)
    # A container's first process does not end by a signal it has no handler for, and imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure(json_lines=args.json_logs)
    from ralb_extproc.app import Options

    try:
        epp = options_of(args)
        beside = companion.options_of(args)
    except ValueError as error:
        parser.error(str(error))
    if not args.listen and epp is None:
        parser.error("without --listen there must be an --epp-pool")

    options = Options(
        listen=args.listen,
        operator=args.operator,
        admin_address=args.admin_address,
        admin_port=args.admin_port,
        records=args.records,
        max_body_bytes=args.max_body_bytes,
        companion=beside,
        epp=epp,
    )
    import uvloop

    return uvloop.run(_run(options))


async def _run(options: "Options") -> int:
    from ralb_extproc.app import Processor

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    try:
        processor = Processor(options)
        await processor.start()
    except (OSError, RuntimeError, ValueError) as error:
        print(f"ralb-extproc: cannot start: {error}", file=sys.stderr)
        return 1
    await stopping.wait()
    await processor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
