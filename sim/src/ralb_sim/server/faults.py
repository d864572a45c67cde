"""Faults on demand: what a pod does wrong, how often, and on which paths.

Rules come from the command line or the admin call, are validated and bounded, and are tried in order for every inference
request; the first of each kind that fires counts. Trap: `slow` and `metrics` are states of the pod, not of a request, and
`crash` with `on: apply` ends the process before the admin call is answered.
"""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_RULES = 32
_KINDS = ("status", "slow", "hang", "reset", "crash", "metrics")
_FIELDS = {
    "status": {"status", "retry_after"},
    "slow": {"factor"},
    "hang": {"after_chunks"},
    "reset": {"after_chunks"},
    "crash": {"after_chunks", "on"},
    "metrics": {"mode"},
}
_PER_REQUEST = ("status", "hang", "reset", "crash")
_PER_REQUEST_FIELDS = {"probability", "limit", "paths"}
CRASH_CODE = 66
"""Exit code of a crash on demand."""


@dataclass(slots=True)
class FaultRule:
    """One rule.

    Attributes:
        kind: `status` (answer with an error), `slow` (stretch every step), `hang` (stop answering), `reset` (cut the
            connection), `crash` (end the process), `metrics` (break the metrics page).
        probability: Chance per request, 0..1.
        limit: Firings before the rule is spent; None means no end.
        paths: Paths it applies to; empty means every inference path.
        status: HTTP status of `status`, 400..599.
        retry_after: Seconds of `Retry-After` for `status`; None sends none.
        factor: Of `slow`, 1..1000.
        after_chunks: Body chunks of a stream sent before `hang`, `reset` or `crash` strikes: 0 is right after the headers,
            None (the default of `hang` and `crash`) before them. Plain answers count as struck before their headers.
        on: When `crash` strikes: `request` or `apply` (at once).
        mode: Of `metrics`: `stuck` (the page freezes), `error` (500) or `hang`.
        fired: Firings so far.
    """

    kind: str
    probability: float = 1.0
    limit: int | None = None
    paths: tuple[str, ...] = ()
    status: int = 503
    retry_after: int | None = None
    factor: float = 1.0
    after_chunks: int | None = None
    on: str = "apply"
    mode: str = "error"
    fired: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the rule as the admin call shows it: only what its kind uses."""
        shown = {name: getattr(self, name) for name in ("kind", *sorted(_known(self.kind) - {"kind"}))}
        return shown | ({"fired": self.fired} if self.kind in _PER_REQUEST else {})


@dataclass(frozen=True, slots=True)
class Strike:
    """What hits one request.

    Attributes:
        status: Answer with this status, or None.
        retry_after: Its `Retry-After` in seconds, or None.
        hang: Chunks before hanging; -1 before the headers; None never.
        reset: Chunks before cutting the connection; -1 before the headers; None never.
        crash: Chunks before ending the process; -1 before the headers; None never.
    """

    status: int | None = None
    retry_after: int | None = None
    hang: int | None = None
    reset: int | None = None
    crash: int | None = None


def parse_rules(value: Any) -> list[FaultRule]:
    """Parse fault rules: one object, a list of them, or `{"rules": [...]}`.

    Raises:
        ValueError: Not such a thing, or a field is unknown, of a wrong type or out of range; says which.
    """
    if isinstance(value, Mapping) and "rules" in value:
        if set(value) != {"rules"}:
            raise ValueError("beside `rules` no other field is allowed")
        value = value["rules"]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise ValueError('faults must be a rule, a list of rules or {"rules": [...]}')
    if len(value) > MAX_RULES:
        raise ValueError(f"at most {MAX_RULES} rules, not {len(value)}")
    return [_rule(one, f"rules[{index}]") for index, one in enumerate(value)]


def _known(kind: str) -> set[str]:
    """Return the fields a rule of a kind may have."""
    return {"kind"} | _FIELDS[kind] | (_PER_REQUEST_FIELDS if kind in _PER_REQUEST else set())


def _rule(value: Any, where: str) -> FaultRule:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: must be an object")
    kind = value.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"{where}.kind: must be one of {', '.join(_KINDS)}, not {kind!r}")
    unknown = set(value) - _known(kind)
    if unknown:
        known = sorted(_known(kind))
        raise ValueError(
            f"{where}: unknown field {sorted(map(str, unknown))[0]!r} for kind {kind}; known: {', '.join(known)}"
        )
    paths = value.get("paths", [])
    if not isinstance(paths, list) or len(paths) > 16 or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{where}.paths: must be a list of at most 16 strings")
    rule = FaultRule(
        kind=kind,
        probability=_real(value, "probability", 1.0, 0, 1, where),
        limit=_whole(value, "limit", None, 1, 1_000_000, where),
        paths=tuple(paths),
        status=_whole(value, "status", 503, 400, 599, where) or 503,
        retry_after=_whole(value, "retry_after", 1 if value.get("status") == 429 else None, 0, 3600, where),
        factor=_real(value, "factor", 2.0, 1, 1000, where),
        after_chunks=_whole(value, "after_chunks", 0 if kind == "reset" else None, 0, 1_000_000, where),
        on=_word(value, "on", "apply", ("apply", "request"), where),
        mode=_word(value, "mode", "error", ("error", "stuck", "hang"), where),
    )
    if kind == "crash" and rule.after_chunks is not None and rule.on != "request":
        raise ValueError(f'{where}.after_chunks: needs "on": "request"')
    return rule


def _real(value: Mapping[str, Any], name: str, default: float, low: float, high: float, where: str) -> float:
    found = value.get(name, default)
    if not isinstance(found, int | float) or isinstance(found, bool) or not low <= found <= high:
        raise ValueError(f"{where}.{name}: must be a number between {low:g} and {high:g}, not {found!r}")
    return float(found)


def _whole(value: Mapping[str, Any], name: str, default: int | None, low: int, high: int, where: str) -> int | None:
    found = value.get(name, default)
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise ValueError(f"{where}.{name}: must be a whole number between {low} and {high}, not {found!r}")
    return found


def _word(value: Mapping[str, Any], name: str, default: str, allowed: tuple[str, ...], where: str) -> str:
    found = value.get(name, default)
    if found not in allowed:
        raise ValueError(f"{where}.{name}: must be one of {', '.join(allowed)}, not {found!r}")
    return str(found)


def crash() -> None:
    """End the process at once, without cleaning anything up."""
    os._exit(CRASH_CODE)


@dataclass(slots=True)
class Faults:
    """The rules in force.

    Attributes:
        rules: In order; the first that fires of each kind counts.
        rng: Source of chance, seeded.
    """

    rng: random.Random
    rules: list[FaultRule] = field(default_factory=list)

    def replace(self, rules: list[FaultRule]) -> None:
        """Put other rules in force; a crash on apply happens here."""
        if any(rule.kind == "crash" and rule.on == "apply" for rule in rules):
            crash()
        self.rules = rules

    @property
    def slowdown(self) -> float:
        """Factor on the duration of every step."""
        return next((rule.factor for rule in self.rules if rule.kind == "slow"), 1.0)

    @property
    def metrics_mode(self) -> str | None:
        """How the metrics page is broken, or None."""
        return next((rule.mode for rule in self.rules if rule.kind == "metrics"), None)

    def strike(self, path: str) -> Strike:
        """Draw what hits a request on `path`."""
        hit: dict[str, FaultRule] = {}
        for rule in self.rules:
            if rule.kind not in _PER_REQUEST or rule.kind in hit or (rule.paths and path not in rule.paths):
                continue
            if rule.limit is not None and rule.fired >= rule.limit:
                continue
            if rule.probability < 1 and self.rng.random() >= rule.probability:
                continue
            rule.fired += 1
            hit[rule.kind] = rule
        if not hit:
            return _NOTHING
        status = hit.get("status")
        return Strike(
            status=status.status if status else None,
            retry_after=status.retry_after if status else None,
            hang=_chunks(hit.get("hang")),
            reset=_chunks(hit.get("reset")),
            crash=_chunks(hit.get("crash")),
        )


_NOTHING = Strike()


def _chunks(rule: FaultRule | None) -> int | None:
    if rule is None:
        return None
    return -1 if rule.after_chunks is None else rule.after_chunks
