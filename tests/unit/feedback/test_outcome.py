import math

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from ralb_extproc.feedback import Failure, outcome_of


def entry(
    status=200,
    attempts=1,
    upstream=("10.0.0.1", 8000),
    tags=None,
    usage=None,
    decision=None,
    flags=(),
    path="/v1/x?a=b",
):
    e = accesslog_pb2.HTTPAccessLogEntry()
    common = e.common_properties
    common.start_time.seconds = 1_700_000_000
    common.duration.seconds = 2
    common.duration.nanos = 500_000_000
    common.upstream_request_attempt_count = attempts
    common.upstream_cluster = "pool/a/b"
    if upstream:
        common.upstream_remote_address.socket_address.address = upstream[0]
        common.upstream_remote_address.socket_address.port_value = upstream[1]
    for key, value in (tags or {}).items():
        common.custom_tags[key] = value
    for key, value in (usage or {}).items():
        common.metadata.filter_metadata["ralb.usage"].fields[key].number_value = value
    if decision is not None:
        common.metadata.filter_metadata["ralb.decision"].fields["id"].string_value = decision
    for flag in flags:
        setattr(common.response_flags, flag, True)
    e.request.request_id = "rid"
    e.request.path = path
    e.request.request_body_bytes = 10
    if status:
        e.response.response_code.value = status
    e.response.response_body_bytes = 99
    return e


def test_everything_said():
    out = outcome_of(
        entry(
            tags={"ttft_us": "125000"},
            usage={"in": 100, "out": 20, "cached": 64, "reasoning": 5},
            decision="d1",
            attempts=2,
        )
    )
    assert out is not None
    assert (out.decision_id, out.request_id, out.path, out.status) == ("d1", "rid", "/v1/x", 200)
    assert (out.attempts, out.upstream, out.cluster, out.failure, out.aborted) == (
        2,
        "10.0.0.1:8000",
        "pool/a/b",
        Failure.NONE,
        False,
    )
    assert out.ttft == pytest.approx(0.125)
    assert out.duration == pytest.approx(2.5)
    assert out.ended == pytest.approx(1_700_000_002.5)
    assert (out.input_tokens, out.output_tokens, out.cached_tokens, out.reasoning_tokens) == (100, 20, 64, 5)
    assert (out.request_bytes, out.response_bytes) == (10, 99)


def test_nothing_said():
    out = outcome_of(accesslog_pb2.HTTPAccessLogEntry())
    assert out is not None
    assert (out.decision_id, out.status, out.attempts, out.upstream, out.ttft, out.output_tokens) == (
        "",
        0,
        0,
        "",
        None,
        None,
    )
    assert out.failure is Failure.NONE


def test_intermediate_record_is_not_an_outcome():
    e = entry()
    e.common_properties.intermediate_log_entry = True
    assert outcome_of(e) is None


@pytest.mark.parametrize("text", ["-", "", "-5", "1.5", "nan", "0", "9" * 16, "999999999999999", "\u0661\u0662"])
def test_impossible_ttft_is_not_said(text):
    assert outcome_of(entry(tags={"ttft_us": text})).ttft is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, 1e12])
def test_impossible_usage_is_not_said(number):
    assert outcome_of(entry(usage={"out": number})).output_tokens is None


def test_usage_of_the_wrong_kind_is_not_said():
    e = entry()
    e.common_properties.metadata.filter_metadata["ralb.usage"].fields["out"].string_value = "12"
    assert outcome_of(e).output_tokens is None


def test_long_text_is_cut():
    e = entry(path="/" + "p" * 5000, decision="d" * 5000)
    e.request.request_id = "r" * 5000
    out = outcome_of(e)
    assert max(len(out.path), len(out.decision_id), len(out.request_id)) == 256


@pytest.mark.parametrize(
    ("flags", "status", "failure"),
    [
        (["upstream_connection_failure"], 503, Failure.CONNECT),
        (["upstream_connection_failure", "upstream_retry_limit_exceeded"], 503, Failure.CONNECT),
        (["upstream_remote_reset"], 200, Failure.RESET),
        (["upstream_connection_termination"], 503, Failure.RESET),
        (["upstream_request_timeout"], 504, Failure.TIMEOUT),
        (["upstream_overflow"], 503, Failure.OVERFLOW),
        (["no_healthy_upstream"], 503, Failure.NO_UPSTREAM),
        ([], 500, Failure.STATUS),
        ([], 429, Failure.NONE),
    ],
)
def test_failures(flags, status, failure):
    assert outcome_of(entry(flags=flags, status=status)).failure is failure


def test_local_5xx_is_no_pod_failure():
    assert outcome_of(entry(status=503, attempts=0, upstream=None)).failure is Failure.NONE


@pytest.mark.parametrize("flag", ["downstream_connection_termination", "downstream_remote_reset"])
def test_client_abort(flag):
    out = outcome_of(entry(status=0, flags=[flag]))
    assert out.aborted
    assert out.failure is Failure.NONE


def test_ipv6_upstream():
    assert outcome_of(entry(upstream=("fd00::1", 80))).upstream == "[fd00::1]:80"


def test_bad_duration_counts_as_unknown():
    e = entry()
    e.common_properties.duration.seconds = -5
    assert outcome_of(e).duration == 0.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("999999999", 7 * 86_400.0),
        ("Tue, 14 Nov 2023 22:13:42 GMT", 19.5),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("9" * 10, None),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Tue, 99 Nov 2023 22:13:42 GMT", None),
        ("x" * 10_000, None),
    ],
)
def test_retry_after(said, seconds):
    e = entry(status=429)
    e.response.response_headers["retry-after"] = said
    assert outcome_of(e).retry_after == seconds


def test_retry_after_of_our_own_is_no_pods():
    e = entry(status=429, attempts=0, upstream=None)
    e.response.response_headers["retry-after"] = "5"
    assert outcome_of(e).retry_after is None
