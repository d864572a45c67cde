"""``ralb explain``: what would happen to requests, and why, without a gateway, a network or a single pod.

The stages are the processor's own functions over the snapshot the operator would send, so what is explained is what is done.
What only a running gateway knows is left out: nobody is busy here. Pools whose pods are not among the files are taken as
ready, and their endpoint stays empty. Each row stands for itself: its choice among equals depends on its id alone, so rows can
be cut, added and put in another order without changing the others.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

if TYPE_CHECKING:
    from ralb.v1 import snapshot_pb2 as pb
    from ralb_api.errors import ClientError
    from ralb_extproc.place import Dice
    from ralb_operator.view import View

OK, USAGE = 0, 2
DEFAULT_PATH = "/v1/chat/completions"
MAX_LINE = 32 * 1024 * 1024

Row = dict[str, Any]
Explain = Callable[[object, str, Mapping[str, str], bytes], Row]


def register(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Adds the parser."""
    parser = subparsers.add_parser(
        "explain",
        help="say where requests would go, and why",
        description="Say where requests would go, and why. Reads one request body from standard input, or with --jsonl one "
        'row {"id", "path"?, "headers"?, "body"} per line, and answers with a line for each. Needs no network and no '
        "cluster. Exit code 0: every row was answered (refusals and bad rows are answers too), 2: unusable input or "
        "configuration.",
    )
    parser.add_argument("-f", "--files", required=True, metavar="PATH", help="directory with YAML files, or one file")
    parser.add_argument("--jsonl", action="store_true", help="read one row per line")
    parser.add_argument(
        "--path", default=DEFAULT_PATH, help=f"path of requests that name none (default {DEFAULT_PATH})"
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="header of every request that does not set it itself; may be given several times",
    )
    parser.add_argument("--text", action="store_true", help="print for people, not for programs")


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 every row was answered, 2 unusable input or configuration."""
    return explain(
        args.files,
        jsonl=args.jsonl,
        path=args.path,
        headers=args.header,
        text=args.text,
        source=sys.stdin.buffer,
        stream=sys.stdout,
        errors=sys.stderr,
    )


def explain(
    files: str,
    *,
    jsonl: bool,
    path: str,
    headers: Iterable[str],
    text: bool,
    source: BinaryIO,
    stream: TextIO,
    errors: TextIO,
) -> int:
    """Reads requests from ``source``, writes explanations to ``stream``; wrong usage is said on ``errors``."""
    import orjson

    try:
        common = dict(map(_header, headers))
        answer = explainer(load_snapshot(files, errors))
    except (ValueError, OSError) as error:
        print(f"ralb explain: {error}", file=errors)
        return USAGE
    if jsonl:
        answers: Iterator[Row] = (_answer_line(answer, line, number, path, common) for number, line in _lines(source))
    else:
        body = source.read(MAX_LINE + 1)
        if len(body) > MAX_LINE:
            print(f"ralb explain: the request body is larger than {MAX_LINE} bytes", file=errors)
            return USAGE
        answers = iter((answer("1", path, common, body),))
    for row in answers:
        stream.write(in_words(row) if text else orjson.dumps(row).decode())
        stream.write("\n")
    return OK


def load_snapshot(files: str, errors: TextIO) -> "pb.Snapshot":
    """The snapshot a directory of YAML compiles to, as ``explain`` wants it.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: nothing there can route anything; what is wrong is said on ``errors``.
    """
    from ralb_api.problems import Problem, Severity
    from ralb_operator import files as yaml_files
    from ralb_operator.compile import compile_view

    view = yaml_files.load(Path(files))
    result = compile_view(view)
    problems = sorted({*view.problems, *result.problems}, key=Problem.sort_key)
    wrong = [problem for problem in problems if problem.severity is Severity.ERROR]
    for problem in wrong:
        print(f"{problem.severity}: {problem}", file=errors)
    if not result.snapshot.pools:
        raise ValueError(f"{files}: no usable ModelPool; see ralb check -f {files}")
    return with_assumed_pods(result.snapshot, view)


def with_assumed_pods(snapshot: "pb.Snapshot", view: "View") -> "pb.Snapshot":
    """A copy in which pools without a single pod in the files, ready or not, count as services: ready, endpoint unknown.

    The same goes for pools that refer to what is rarely in the files, such as Secrets and EndpointSlices.
    """
    from ralb.v1 import snapshot_pb2 as pb

    specs = {key.id: (key.namespace, pool.spec.backend.pods) for key, pool in view.pools.items()}
    copy = pb.Snapshot()
    copy.CopyFrom(snapshot)
    for pool in copy.pools:
        namespace, pods = specs[pool.id]
        if pool.endpoints:
            continue
        if pods is None:
            pool.metrics_path = pool.blocked = ""
            continue
        wanted = pods.selector.match_labels.items()
        if not any(pod.namespace == namespace and wanted <= pod.labels.items() for pod in view.pods):
            pool.metrics_path = ""
    return copy


def explainer(snapshot: "pb.Snapshot") -> Explain:
    """A function (id, path, headers, body) -> row over one snapshot; it raises nothing, whatever the request.

    Raises:
        ValueError: the snapshot contradicts itself.
    """
    from ralb_api.errors import ClientError
    from ralb_extproc.decision import Decision, stages
    from ralb_extproc.place import Ask, PodTable, place_plan, prefix_of
    from ralb_extproc.plan import plan
    from ralb_extproc.request import parse
    from ralb_extproc.table import RoutingTable
    from ralb_extproc.understand import DEFAULT

    table = RoutingTable.of(snapshot)
    pods = PodTable()
    pods.update(snapshot.pools, 0.0)
    lots = _lots()

    def answer(name: object, path: str, headers: Mapping[str, str], body: bytes) -> Row:
        decision = Decision("", 0.0, snapshot.version, path)
        try:
            request = parse(path, headers, body)
            decision.understanding = DEFAULT.understand(request)
            decision.plan = plan(table, request, decision.understanding)
        except ClientError as error:
            return {"id": name, "error": error_record(error)}
        ask = Ask(request.input_tokens, request.max_output, prefix_of(request), decision.understanding.intent)
        decision.placement = place_plan(table, pods, decision.plan, ask, 0.0, lots(name))
        return {"id": name, "decision": stages(decision)}

    return answer


def _lots() -> "Callable[[object], Dice]":
    """A function id -> dice that fall as the id says: equal ids, equal luck. Seeding real ones costs more than a decision."""
    import numpy as np
    import xxhash

    from ralb_extproc.place import Dice
    from ralb_extproc.place.dice import NEAR

    numbers = np.random.default_rng(0).random(1 << 16)

    class Lot(Dice):
        def __init__(self, start: int) -> None:
            self._next = start

        def many(self, count: int) -> "np.typing.NDArray[np.float64]":
            start = self._next if self._next + count <= len(numbers) else 0
            self._next = start + count
            return np.resize(numbers, count) if count > len(numbers) else numbers[start : start + count]

        def near(self, count: int) -> "np.typing.NDArray[np.float64]":
            return self.many(count) * NEAR + 1.0

    def lot(name: object) -> Dice:
        return Lot(xxhash.xxh3_64_intdigest(str(name).encode("utf-8", "surrogatepass")) % len(numbers))

    return lot


def error_record(error: "ClientError") -> dict[str, Any]:
    """What a client would be told."""
    return {"status": error.status, "code": str(error.code), "message": error.message, "param": error.param}


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank; of a line that is too long only the beginning, which is then no JSON."""
    number = 0
    while line := source.readline(MAX_LINE):
        number += 1
        while not line.endswith(b"\n") and (rest := source.readline(MAX_LINE)):
            if rest.endswith(b"\n"):
                break
        if not line.isspace():
            yield number, line


def _answer_line(answer: Explain, line: bytes, number: int, path: str, common: Mapping[str, str]) -> Row:
    """The answer to one row of input, an error that says what is wrong with the row if it is no row."""
    import orjson

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _bad_row(None, f"line {number} is not JSON: {error}")
    if type(row) is not dict:
        return _bad_row(None, f"line {number} is not an object")
    name = row.get("id", number)
    if "body" not in row:
        return _bad_row(name, f'line {number} has no "body"')
    where, headers = row.get("path", path), row.get("headers", {})
    if where is None:
        where = path
    if type(where) is not str:
        return _bad_row(name, f'"path" on line {number} is not a string')
    if headers is None:
        headers = {}
    if type(headers) is not dict or not all(type(value) is str for value in headers.values()):
        return _bad_row(name, f'"headers" on line {number} is not an object of strings')
    body = row["body"]
    # A string is taken as the raw body, so that bodies which are no JSON can be asked about too.
    raw = body.encode("utf-8", "surrogatepass") if type(body) is str else _encoded(body)
    if raw is None:
        return _bad_row(name, f'"body" on line {number} is nested too deep')
    own = {key.lower(): value for key, value in headers.items()}
    return answer(name, where, {**common, **own}, raw)


def _encoded(body: object) -> bytes | None:
    import orjson

    try:
        return orjson.dumps(body)
    except TypeError:
        return None


def _bad_row(name: object, message: str) -> Row:
    return {"id": name, "error": {"status": 400, "code": "invalid_row", "message": message, "param": None}}


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"--header {text!r} is not NAME:VALUE")
    return name.strip().lower(), value.strip()


def in_words(row: Row) -> str:
    """A row for a person."""
    if "error" in row:
        error = row["error"]
        field = f" ({error['param']})" if error["param"] else ""
        return f"{row['id']}: refused with {error['status']} {error['code']}{field}: {error['message']}"
    understanding, plan, placement = (row["decision"][stage] for stage in ("understanding", "plan", "placement"))
    lines = [
        f"{row['id']}: {understanding['intent']}, complexity {understanding['complexity']:.2f}"
        f" (confidence {understanding['confidence']:.2f}, by {understanding['model']})"
    ]
    lines += [f"    {weight:+.2f}  {words}" for words, weight in understanding["reasons"]]
    if plan["policy"]:
        lines.append(f"  policy {plan['policy']}, rule {plan['rule']} -> tier {plan['tier']}")
    else:
        lines.append("  no policy: asked for by model name")
    lines += [f"    at most {plan['output_cap']} answer tokens"] if plan.get("output_cap") else []
    lines += [f"    reasoning effort {plan['reasoning_effort']}"] if plan.get("reasoning_effort") else []
    lines += [f"    not {pool}: {reason}" for pool, reason in plan["skipped"]]
    endpoint = f" at {placement['endpoint']}" if placement["endpoint"] else ""
    lines.append(f"  pool {placement['pool']}{endpoint}, as model {placement['model']}")
    lines.append(f"    by {placement['strategy']} ({placement['reason']})")
    others = [pool for pool in plan["candidates"] if pool != placement["pool"]]
    lines += [f"    else {', '.join(others)}"] if others else []
    return "\n".join(lines)
