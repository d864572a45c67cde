"""``ralb demo``: the quickstart, a dozen varied requests, and a table of what happened to each."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the parser."""
    parser = subparsers.add_parser("demo", help="run the quickstart with simulated pods and show where requests go")
    parser.add_argument("-f", "--file", default="examples/quickstart", metavar="DIR", help="folder with objects")
    parser.add_argument("--port", type=int, default=0, help="client-facing port (default: any free one)")
    parser.add_argument(
        "--exit", action="store_true", help="end after the table; exit code 0 only if every row is right"
    )
    parser.add_argument(
        "--url",
        default="",
        help="ask this gateway, which serves the objects of examples/quickstart in namespace default; nothing is started",
    )
    parser.add_argument(
        "--records",
        metavar="FILE",
        help="with --url: the file that the gateway's decision records are being written to",
    )


def run(args: argparse.Namespace) -> int:
    """Run it."""
    import os

    # Children are started by fork: gRPC has nothing to prepare in them, they run another program at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from ralb_api.logs import configure
    from ralb_cli.demo.play import ask_there, play

    if bool(args.url) != bool(args.records):
        print("ralb demo: --url and --records go together", file=sys.stderr)
        return 2
    if args.url:
        return asyncio.run(ask_there(args.url.rstrip("/"), Path(args.records)))
    if not Path(args.file).exists():
        print(
            f"ralb demo: there is no {args.file}; run it in the project's folder or name one with -f", file=sys.stderr
        )
        return 2
    configure(json_lines=False)
    return asyncio.run(play(args.file, args.port, stay=not args.exit))
