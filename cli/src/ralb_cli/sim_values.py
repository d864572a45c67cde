"""Values of ``ralb sim``'s options: text in, value or an error that argparse shows; then what they mean together.

Loaded by ``ralb --help`` too, so what is slow to import is imported inside functions.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ralb_sim.offline.fleet import Event
    from ralb_sim.offline.measure import Slo
    from ralb_sim.offline.trace import Trace
    from ralb_sim.profiles import Profile

MAX_PODS = 4096

_Value = TypeVar("_Value")


def several(one: Callable[[str], _Value]) -> Callable[[str], list[_Value]]:
    """Values with commas between them, each once."""

    def parse(text: str) -> list[_Value]:
        return list(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return parse


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def whole(least: int, most: int) -> Callable[[str], int]:
    """An integer within bounds."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected an integer from {least} to {most}, not {text!r}")
        return int(text)

    return parse


def number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """A number within bounds; ``above``: the lower one itself is too little. Whole ones become integers."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            start = f"above {least:g} and" if above else f"from {least:g}"
            raise argparse.ArgumentTypeError(f"expected a number {start} up to {most:g}, not {text!r}")
        return int(value) if value.is_integer() else value

    return parse


def profiles(text: str) -> list[tuple[str, int]]:
    """Profiles with how many pods each; 0 = as many as ``--pods`` says."""
    from ralb_sim.profiles import get_profile

    found: list[tuple[str, int]] = []
    for part in text.split(","):
        name, colon, count = part.strip().partition(":")
        try:
            get_profile(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        found.append((name, whole(1, MAX_PODS)(count) if colon else 0))
    if len(found) > 1 and not all(count for _, count in found):
        raise argparse.ArgumentTypeError(f"expected how many pods of each, as in {found[0][0]}:4,{found[1][0]}:4")
    return found


def event(text: str) -> "Event":
    """What happens to a pod, and when: ``30:pod=2,speed=0.33`` or ``30:pod=2,stop``."""
    from ralb_sim.offline.fleet import Event, Kind, check

    at, colon, rest = text.partition(":")
    pod, comma, what = rest.partition(",")
    name, equals, value = what.strip().partition("=")
    valued = {Kind.SPEED, Kind.ERRORS}
    kinds = {str(kind): kind for kind in Kind}
    if not colon or not comma or not pod.strip().startswith("pod=") or name not in kinds:
        raise argparse.ArgumentTypeError(
            "expected SECONDS:pod=N,KIND with KIND one of start, stop, speed=X, freeze, freeze=0, errors=SHARE, "
            f"as in 30:pod=2,speed=0.33, not {text!r}"
        )
    kind = kinds[name]
    if bool(equals) != (kind in valued) and not (kind is Kind.FREEZE and equals):
        raise argparse.ArgumentTypeError(f"{name} takes {'a' if kind in valued else 'no'} value, found {text!r}")
    seconds = number(0.0, 1e9)(at.strip())
    made = Event(seconds, whole(0, MAX_PODS - 1)(pod.strip()[4:]), kind, number(0.0, 1000.0)(value) if equals else 1.0)
    try:
        check([made], MAX_PODS)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return made


def known_policies(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """The policies asked for, each once.

    Raises:
        ValueError: one is unknown; lists the known ones.
    """
    from ralb_cli.sim_runs import ALIASES

    found: dict[str, None] = {}
    for name in asked:
        if name == "all":
            found.update(dict.fromkeys(one for one in known if one not in ALIASES))
        elif name in known or ALIASES.get(name) in known:
            found[name] = None
        else:
            names = ", ".join(dict.fromkeys(["all", *(one for one in ALIASES if ALIASES[one] in known), *known]))
            raise ValueError(f"--policy: unknown policy {name!r}; known: {names}")
    return list(found)


def fleets(asked: Sequence[tuple[str, int]], pods: Sequence[int] | None) -> "dict[int, Sequence[Profile]]":
    """The pods' profiles, by number of pods.

    Raises:
        ValueError: there are too many, or ``--pods`` says another number than the profiles.
    """
    from ralb_sim.profiles import get_profile

    known = [(get_profile(name), count) for name, count in asked]
    if not known[0][1]:
        return {count: [known[0][0]] * count for count in pods or [8]}
    fleet = [profile for profile, count in known for _ in range(count)]
    if len(fleet) > MAX_PODS:
        raise ValueError(f"--profile names {len(fleet)} pods; at most {MAX_PODS}")
    if pods and list(pods) != [len(fleet)]:
        raise ValueError(
            f"--profile names {len(fleet)} pods, but --pods says {', '.join(map(str, pods))}; leave --pods out"
        )
    return {len(fleet): fleet}


def objective(trace: "Trace", known: "dict[int, Sequence[Profile]]", ttft: float | None, tpot: float | None) -> "Slo":
    """As given, seconds; else what the slowest of the profiles can do on the rows of the trace that fit on a pod.

    Raises:
        ValueError: no row fits.
    """
    from ralb_sim.offline.measure import Slo, auto_slo
    from ralb_sim.offline.pod import longest

    if ttft and tpot:
        return Slo(ttft, tpot)
    kinds = {profile for fleet in known.values() for profile in fleet}
    room = max(map(longest, kinds))
    rows = tuple(row for row in trace.rows if row.input + row.output <= room)
    if not rows:
        raise ValueError(
            f"{trace.name}: no request fits into a pod's {room:,} tokens; choose a --profile with more memory"
        )
    found = [auto_slo(replace(trace, rows=rows), profile) for profile in kinds]
    return Slo(ttft or max(slo.ttft_s for slo in found), tpot or max(slo.tpot_s for slo in found))
