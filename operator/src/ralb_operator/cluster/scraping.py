"""Whether what placement needs of a pool's metrics is there: condition ``MetricsAvailable``, from what processors tell.

Pure. The condition appears on a pool once something is amiss, and stays, true, when that is over: pools that always were well
do not carry it. Until every processor has told what it sees, a pool keeps the condition it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ralb_api.problems import ObjectKey
from ralb_operator.troubles import Trouble, merged

METRICS_AVAILABLE: Final = "MetricsAvailable"

# Reasons of the condition. They are API: documented, never renamed.
AVAILABLE: Final = "Available"
MISSING_SERIES: Final = "MissingSeries"
UNREADABLE: Final = "Unreadable"
NO_GATEWAY: Final = "NoGateway"


@dataclass(frozen=True, slots=True)
class Scraping:
    """What is known of all pools.

    Attributes:
        troubles: by pool id, the worst first.
        complete: every connected processor has told, and there is one.
        deserted: there has been none for long.
    """

    troubles: Mapping[str, Sequence[Trouble]]
    complete: bool
    deserted: bool


NOT_TOLD: Final = Scraping({}, complete=False, deserted=False)


def scraping(reports: Sequence[tuple[Sequence[Trouble], int, int]], *, deserted: bool) -> Scraping:
    """Put together what the operator's replicas know.

    Args:
        reports: of each replica: troubles, connected processors, and how many of those have told.
        deserted: there have been no gateways for long.
    """
    troubles: dict[str, list[Trouble]] = {}
    for trouble in merged(trouble for part, _, _ in reports for trouble in part):
        troubles.setdefault(trouble.pool, []).append(trouble)
    processors, heard = sum(report[1] for report in reports), sum(report[2] for report in reports)
    return Scraping(troubles, processors > 0 and heard >= processors, deserted)


def judge(key: ObjectKey, known: Scraping, before: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    """(status, reason, message) of a pool whose pods are to be scraped; None for no condition.

    Args:
        key: of the pool.
        known: see ``scraping``.
        before: the condition it has now.
    """
    troubles = known.troubles.get(key.id)
    if troubles:
        reason = MISSING_SERIES if any(trouble.series for trouble in troubles) else UNREADABLE
        text = "; ".join(_words(trouble) for trouble in troubles)
        return "False", reason, f"{text}. Until then placement goes by what gateways have in flight there."
    if before is None:
        return None
    if known.complete:
        return "True", AVAILABLE, "What placement needs is read from all pods."
    if known.deserted:
        return "Unknown", NO_GATEWAY, "No processor is connected, so nobody reads the pods' metrics."
    kept = [value for name in ("status", "reason", "message") if isinstance(value := before.get(name), str)]
    return (kept[0], kept[1], kept[2]) if len(kept) == 3 else None


def _words(trouble: Trouble) -> str:
    more = trouble.pods - len(trouble.examples)
    names = ", ".join(trouble.examples) + (f" and {more} more" if more > 0 and trouble.examples else "")
    who = f"{trouble.pods} of {trouble.of} pods"
    what = f"do not publish {trouble.series}" if trouble.series else f"cannot be read ({trouble.error})"
    return f"{who} {what}: {names}" if names else f"{who} {what}"
