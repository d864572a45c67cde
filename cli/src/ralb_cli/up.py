"""``ralb up``: RALB from YAML files on one machine, with live reload."""

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the parser."""
    parser = subparsers.add_parser("up", help="run RALB on this machine from YAML files")
    parser.add_argument("-f", "--file", required=True, metavar="DIR", help="folder or file with objects")
    parser.add_argument(
        "--sim", action="store_true", help="start simulated pods for pools annotated sim.ralb.dev/replicas"
    )
    parser.add_argument("--address", default="127.0.0.1", help="client-facing address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="client-facing port, 0 = any free one (default: 8080)")
    parser.add_argument(
        "--admin-port", type=int, default=0, help="port of /metrics on loopback (default: any free one)"
    )
    parser.add_argument(
        "--ready-file",
        metavar="FILE",
        help="written once requests are served, kept current: JSON with url, ports, pids, pods",
    )
    parser.add_argument(
        "--records",
        default="-",
        metavar="FILE",
        help="decision records, one JSON line each: a file, - for stdout (default), '' for nowhere",
    )
    parser.add_argument("--json-logs", action="store_true", help="log lines as JSON")
    parser.add_argument("--concurrency", type=int, default=2, help="Envoy worker threads (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT, then drain."""
    import os

    # Children are started by fork: gRPC has nothing to prepare in them, they run another program at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from ralb_api.logs import configure

    configure(json_lines=args.json_logs)
    for port in (args.port, args.admin_port):
        if not 0 <= port <= 65535:
            print(f"ralb up: {port} is not a port; use 0 to 65535", file=sys.stderr)
            return 2
    return asyncio.run(_serve(args))


async def _serve(args: argparse.Namespace) -> int:
    from ralb_cli.stack.stack import Stack, StackError, StackOptions, write_ready_file

    log = logging.getLogger("ralb.up")
    stopping, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        """The first signal asks for a clean end, a second one for a quick one."""
        (hurry if stopping.is_set() else stopping).set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end)
    options = StackOptions(
        source=args.file,
        port=args.port,
        address=args.address,
        admin_port=args.admin_port,
        sim=args.sim,
        records=args.records,
        json_logs=args.json_logs,
        concurrency=args.concurrency,
    )
    ready_file = Path(args.ready_file) if args.ready_file else None

    def tell() -> None:
        if ready_file is not None:
            write_ready_file(ready_file, stack.describe())

    stack = Stack(options, tell)
    starting = asyncio.create_task(stack.start())
    interrupted = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
    watcher: asyncio.Task[None] | None = None
    try:
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        try:
            starting.result()
        except StackError as error:
            print(f"ralb up: {error}", file=sys.stderr)
            return 1
        log.info("ready: %s (metrics: %s)", stack.url, stack.describe()["metrics"])
        tell()
        watcher = asyncio.create_task(_watch(args.file, stack.reload, stopping))
        await stopping.wait()
        log.info("draining")
        return 0
    finally:
        interrupted.cancel()
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        await stack.stop(hurry=hurry)


async def _watch(source: str, reload: Callable[[], Awaitable[None]], stopping: asyncio.Event) -> None:
    """Reload after every change of a YAML file; changes within 400 ms count as one.

    Nothing says when watching has begun, so what changed between the first load and the first sign of life is loaded then.
    """
    from watchfiles import awatch

    def is_yaml(_: object, path: str) -> bool:
        return path.endswith((".yaml", ".yml"))

    log = logging.getLogger("ralb.up")
    while not stopping.is_set():
        watching = False
        try:
            async for changes in awatch(
                source,
                watch_filter=is_yaml,
                debounce=400,
                step=100,
                stop_event=stopping,
                rust_timeout=1000,
                yield_on_timeout=True,
            ):
                if changes:
                    log.info("files changed, loading again")
                if changes or not watching:
                    await reload()
                watching = True
        except Exception:
            # A reload must never end the process: what is published stays in use.
            log.exception("loading failed; the last good configuration stays in use")
            await asyncio.sleep(1.0)
