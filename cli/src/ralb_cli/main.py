"""Entry point of ``ralb``: finds the subcommand and hands over.

A subcommand is a module ``ralb_cli.<name>`` with ``register(subparsers)``, which adds its parser, and ``run(args) -> int``,
which gives the exit code: 0 done, 1 found something wrong, 2 wrong usage. A module imports what is slow to load inside
``run``, so that ``ralb --help`` is quick; when a subcommand is named, only its module is loaded.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol, cast

from ralb_api import __version__

COMMANDS = ("up", "check", "explain", "sim", "demo")


class Command(Protocol):
    """What a subcommand's module offers."""

    def register(self, subparsers: "argparse._SubParsersAction[Any]") -> None:
        """Adds the parser of the subcommand."""

    def run(self, args: argparse.Namespace) -> int:
        """Does it; returns the exit code."""


def command(name: str) -> Command:
    """The module of a subcommand."""
    return cast(Command, importlib.import_module(f"ralb_cli.{name}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``ralb``; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ralb", description="Reasoning-aware load balancer for LLM and agent traffic."
    )
    parser.add_argument("--version", action="version", version=f"ralb {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in arguments if not word.startswith("-")), "")
    for name in [asked] if asked in COMMANDS else COMMANDS:
        command(name).register(subparsers)
    args = parser.parse_args(arguments)
    try:
        code = command(args.command).run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away, as with `| head`; a second failure at exit would only be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
