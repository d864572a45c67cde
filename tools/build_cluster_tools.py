"""``make control-plane``: builds the control plane, Helm and fetches other projects' CRDs for the tests, once per version.

Exit code 1 with the reason when that is impossible. With ``--or-skip`` the exit code is 0 all the same, so that ``make test``
goes on and skips what needs them, unless ``$CI`` is true: there it must not be skipped.
"""

import argparse
import os
import sys

from cluster_tools.build import build, say_now
from cluster_tools.golang import CannotBuild
from cluster_tools.modules import MODULES


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Build the control plane that tests use, into the user's cache.")
    parser.add_argument("--or-skip", action="store_true", help="exit code 0 when it is impossible, unless CI=true")
    parser.add_argument("names", nargs="*", help=f"only these of: {', '.join(module.name for module in MODULES)}")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - {module.name for module in MODULES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    try:
        for line in build(tuple(module for module in MODULES if not args.names or module.name in args.names)):
            say_now(line)
    except (CannotBuild, OSError) as error:
        bar = "=" * 100
        print(f"{bar}\nNO CONTROL PLANE FOR TESTS: {error}\n{bar}", file=sys.stderr, flush=True)
        if args.or_skip and os.environ.get("CI", "").lower() != "true":
            print("The tests that need it will be SKIPPED.", file=sys.stderr, flush=True)
            return 0
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
