"""Series about prompts computed by Prefill pools."""

from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from ralb_extproc.place import PodTable
from ralb_extproc.prefill.legs import Legs
from ralb_extproc.telemetry import Telemetry
from ralb_extproc.types import Handoff, HandoffReason


def samples(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(telemetry.page().decode())
        for sample in family.samples
    }


def test_who_computed_prompts() -> None:
    telemetry = Telemetry(PodTable())
    telemetry.handed_over("ns/d", Handoff(HandoffReason.SHORT), None)
    telemetry.handed_over("ns/d", Handoff(HandoffReason.REMOTE, "ns/p", "10.0.0.1:80"), 0.25)
    telemetry.handed_over("ns/d", Handoff(HandoffReason.REMOTE, "ns/p", "10.0.0.1:80", sidecar=True), None)
    telemetry.handed_over("ns/d", Handoff(HandoffReason.TIMEOUT, "ns/p", "10.0.0.1:80"), 30.0)
    found = samples(telemetry)
    assert found["ralb_handoffs_total", "unified-short", "ns/d"] == 1
    assert found["ralb_handoffs_total", "remote", "ns/d"] == 2
    assert found["ralb_handoffs_total", "failed-timeout", "ns/d"] == 1
    assert found["ralb_prefill_leg_seconds_count", "ns/p"] == 2
    assert found["ralb_prefill_leg_seconds_sum", "ns/p"] == 30.25


def test_what_is_under_way() -> None:
    telemetry = Telemetry(PodTable())
    legs: Any = SimpleNamespace(running={"ns/p": 3}, tokens={"ns/p": 12_000})
    telemetry.watched.legs = cast(Legs, legs)
    found = samples(telemetry)
    assert found["ralb_prefill_legs", "ns/p"] == 3
    assert found["ralb_prefill_leg_tokens", "ns/p"] == 12_000
