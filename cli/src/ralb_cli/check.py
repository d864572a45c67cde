"""``ralb check``: everything that is wrong with a set of YAML files, without starting anything."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ralb_api.problems import Problem
    from ralb_operator.view import View

OK, ERRORS, USAGE = 0, 1, 2


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Adds the parser."""
    parser = subparsers.add_parser(
        "check",
        help="validate YAML files and say exactly what to fix",
        description="Validate YAML files and say exactly what to fix. Exit code 0: no errors, 1: errors, 2: wrong usage.",
    )
    parser.add_argument("-f", "--files", required=True, metavar="PATH", help="directory with YAML files, or one file")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 no errors (warnings are fine), 1 errors, 2 there was nothing to check."""
    return check(args.files, as_json=args.json, stream=sys.stdout, errors=sys.stderr)


def check(path: str, *, as_json: bool, stream: TextIO, errors: TextIO) -> int:
    """Loads, compiles, reports to ``stream``; wrong usage is said on ``errors``. Returns the exit code of ``run``."""
    # Here, not above, so that `ralb --help` need not wait for pydantic and Envoy's message types.
    from ralb_api.problems import Problem, Severity
    from ralb_operator import files
    from ralb_operator.compile import compile_view, may_be_elsewhere

    source = Path(path)
    if not source.exists():
        print(f"ralb check: {path}: no such file or directory", file=errors)
        return USAGE
    if not any(True for _ in files.yaml_files(source)):
        print(f"ralb check: {path}: no *.yaml or *.yml file in it", file=errors)
        return USAGE
    view = files.load(source)
    found = {*view.problems, *compile_view(view).problems}
    problems = sorted(
        (_milder(problem) if may_be_elsewhere(problem) else problem for problem in found), key=Problem.sort_key
    )
    wrong = sum(problem.severity is Severity.ERROR for problem in problems)
    if as_json:
        import orjson

        report = {
            "ok": wrong == 0,
            "counts": {**_counts(view), "errors": wrong, "warnings": len(problems) - wrong},
            "problems": [problem.to_dict() for problem in problems],
        }
        stream.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        for problem in problems:
            stream.write(f"{problem.severity}: {problem}\n")
        stream.write(_summary(view, wrong, len(problems) - wrong) + "\n")
    return ERRORS if wrong else OK


def _milder(problem: "Problem") -> "Problem":
    """Secrets are in no repository, and Services may be in another: that they are not in the files is no mistake of the files."""
    from ralb_api.problems import Severity

    hint = f"fine if the cluster has what these files lack; else {problem.hint}"
    return replace(problem, severity=Severity.WARNING, hint=hint)


def _counts(view: "View") -> dict[str, int]:
    return {
        "pools": len(view.pools),
        "tiers": len(view.tiers),
        "policies": len(view.policies),
        "pods": len(view.pods),
    }


def _noun(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _summary(view: "View", errors: int, warnings: int) -> str:
    objects = [
        _noun(len(view.pools), "pool", "pools"),
        _noun(len(view.tiers), "tier", "tiers"),
        _noun(len(view.policies), "policy", "policies"),
    ]
    if view.pods:
        objects.append(_noun(len(view.pods), "pod", "pods"))
    found = [_noun(errors, "error", "errors")] if errors else []
    found += [_noun(warnings, "warning", "warnings")] if warnings else []
    return f"{', '.join(objects)}: {', '.join(found) or 'no problems'}"
