import dataclasses

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ralb.v1.snapshot_pb2 import Cost, Endpoint, Pool
from ralb_extproc.feedback import Failure, Learner, Outcome
from ralb_extproc.metrics import Scraper
from ralb_extproc.place import FlightInfo, PodSample, PodTable
from ralb_extproc.telemetry import STAGES, Telemetry

POOL = Pool(
    id='ns/"p\\',
    endpoints=[Endpoint(address=f"10.0.0.{i}:80") for i in range(3)],
    cost=Cost(input_per_million=1.0, cached_input_per_million=0.1, output_per_million=10.0),
)
NAME = POOL.id


class Samples(dict):
    """(name, label values in any order) -> value."""

    def __getitem__(self, key):
        return super().__getitem__((key[0], *sorted(key[1:])))


def samples(telemetry):
    out = Samples()
    for family in text_string_to_metric_families(telemetry.page().decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(v for k, v in sample.labels.items() if k != "le"))
            out[key if "le" not in sample.labels else (*key, sample.labels["le"])] = sample.value
    return out


@pytest.fixture
def pods():
    pods = PodTable()
    pods.update([POOL], 0.0)
    return pods


def make(pods, **options):
    telemetry = Telemetry(pods, wall=lambda: 1010.0, clock=lambda: 50.0, **options)
    telemetry.snapshot("v1", [POOL])
    learner = Learner(pods, settled=telemetry.settled, clock=lambda: 50.0)
    telemetry.watched.learner = learner
    return telemetry, learner


def outcome(**changes):
    base = Outcome(
        decision_id="d",
        path="/v1/chat/completions",
        status=200,
        attempts=2,
        upstream="10.0.0.0:80",
        ttft=0.2,
        duration=3.0,
        ended=1009.9,
        input_tokens=1000,
        output_tokens=100,
        cached_tokens=400,
        reasoning_tokens=30,
    )
    return dataclasses.replace(base, **changes)


def test_a_settled_request(pods):
    telemetry, learner = make(pods)
    slot = pods.slot(NAME, "10.0.0.0:80")
    pods.begin("d", slot, 100, 10, 40.0, FlightInfo(pool=NAME, tier="ns/t", attempts=((slot, 1),), pools=(NAME,)))
    learner.learn(outcome())
    got = samples(telemetry)
    assert got["ralb_requests_total", "200", "chat"] == 1
    assert got["ralb_attempts_total", NAME] == 2
    assert got["ralb_tokens_total", "input", NAME] == 1000
    assert got["ralb_tokens_total", "output", NAME] == 100
    assert got["ralb_tokens_total", "cached", NAME] == 400
    assert got["ralb_tokens_total", "reasoning", NAME] == 30
    assert got["ralb_cost_dollars_total", NAME, "ns/t"] == pytest.approx((600 * 1.0 + 400 * 0.1 + 100 * 10) / 1e6)
    assert got["ralb_ttft_seconds_sum", NAME] == pytest.approx(0.2)
    assert got["ralb_duration_seconds_count", NAME] == 1
    assert got["ralb_access_log_lag_seconds_sum",] == pytest.approx(0.1)
    assert got["ralb_outcomes_unknown_total",] == 0
    assert ("ralb_usage_estimated_total", NAME) not in got


def test_failures_aborts_and_strangers(pods):
    telemetry, learner = make(pods)
    slot = pods.slot(NAME, "10.0.0.0:80")
    pods.begin("d", slot, 100, 10, 40.0, FlightInfo(pool=NAME))
    learner.learn(outcome(status=503, failure=Failure.CONNECT, aborted=True))
    learner.learn(outcome(decision_id="never seen", path="/etc/passwd", status=404))
    got = samples(telemetry)
    assert got["ralb_failures_total", "connect", NAME] == 1
    assert got["ralb_client_aborts_total", NAME] == 1
    assert got["ralb_requests_total", "404", "other"] == 1
    assert got["ralb_outcomes_unknown_total",] == 1
    assert not any(name == "ralb_cost_dollars_total" for name, *_ in got)


def test_decisions_and_stages(pods):
    telemetry, _ = make(pods)
    telemetry.decided("ns/pol", "default", "ns/t", NAME, "best")
    telemetry.spilled("ns/t", "ns/u")
    telemetry.refused("model_not_found")
    for stage in STAGES:
        telemetry.stage(stage, 0.0004)
    got = samples(telemetry)
    assert got["ralb_decisions_total", NAME, "default", "ns/pol", "ns/t"] == 1
    assert got["ralb_placements_total", "best"] == 1
    assert got["ralb_spilled_total", "ns/t", "ns/u"] == 1
    assert got["ralb_refused_total", "model_not_found"] == 1
    assert all(got["ralb_stage_seconds_count", stage] == 1 for stage in STAGES)


def test_label_values_are_bounded(pods):
    telemetry, _ = make(pods, max_series=10)
    for i in range(1000):
        telemetry.refused(f"code{i}")
    got = {key: value for key, value in samples(telemetry).items() if key[0] == "ralb_refused_total"}
    assert len(got) == 11
    assert got["ralb_refused_total", "other"] == 990
    assert len(telemetry._refused._children) <= 11


def test_pods_are_shown_with_the_age_of_what_they_said(pods):
    telemetry, _ = make(pods)
    slot = pods.slot(NAME, "10.0.0.1:80")
    pods.observe(slot, PodSample(48.5, 3, 4, 0.25), 48.5)
    pods.begin("r", slot, 7, 8, 49.0)
    got = samples(telemetry)
    pod = ("10.0.0.1:80", NAME)
    assert got["ralb_pod_waiting", *pod] == 3
    assert got["ralb_pod_running", *pod] == 4
    assert got["ralb_pod_kv_usage", *pod] == 0.25
    assert got["ralb_pod_age_seconds", *pod] == 1.5
    assert got["ralb_pod_health", *pod] == 0
    assert got["ralb_pod_share", *pod] == 1
    assert got["ralb_pod_slowness", *pod] == 1
    assert got["ralb_pod_in_flight", *pod] == 1
    assert got["ralb_pod_prefill_tokens", *pod] == 7
    assert ("ralb_pod_age_seconds", "10.0.0.0:80", NAME) not in got
    assert (got["ralb_pods",], got["ralb_pods_not_shown",]) == (3, 0)


def test_pods_shown_are_bounded(pods):
    telemetry, _ = make(pods, max_pods=2)
    got = samples(telemetry)
    assert sum(name == "ralb_pod_waiting" for name, *_ in got) == 2
    assert got["ralb_pods_not_shown",] == 1


def test_snapshot_scraper_and_ledger(pods):
    telemetry, _ = make(pods)
    telemetry.watched.scraper = scraper = Scraper(pods)
    scraper.errors["timeout"] += 2
    pods.begin("r", 0, 1, 1, 1.0)
    telemetry.snapshot("v2", [], error="bad")
    got = samples(telemetry)
    assert got["ralb_snapshot_info", "v1"] == 1
    assert got["ralb_snapshot_age_seconds",] == 0
    assert got["ralb_snapshot_errors_total",] == 1
    assert got["ralb_scrape_errors_total", "timeout"] == 2
    assert got["ralb_flights",] == 1
    telemetry.snapshot("v2", [])
    got = samples(telemetry)
    assert ("ralb_snapshot_info", "v1") not in got
    assert got["ralb_snapshot_info", "v2"] == 1
