"""With real ``ralb-sim`` processes over ZeroMQ: what the prefix index believes after evictions, with events and without."""

import pytest
from prometheus_client import generate_latest
from support_kv_events import REPLAY, Fleet, body_of, fleet, text
from support_net import wait_until

from ralb_extproc.place import prefix_of
from ralb_extproc.request import parse


@pytest.fixture
async def pods(tmp_path):
    async with fleet(tmp_path) as made:
        yield made


async def listening(pods: Fleet):
    """Wait until every pod's events come: requests are sent until they do."""
    for address in pods.addresses:
        number = 0

        async def heard(address=address):
            nonlocal number
            number += 1
            await pods.send(text(10_000 + number, 64), address)
            return pods.rows()[address]["batches"] > 0

        await wait_until(heard, 20, interval=0.05)


async def matched(pods: Fleet):
    """Wait until all requests that ended were looked at."""
    await wait_until(lambda: not pods.view._pending, 10)


async def test_an_evicted_prompt_is_no_longer_expected(pods):
    await pods.start(1, kv_tokens=4096)
    pods.follow()
    await listening(pods)
    (address,) = pods.addresses
    first, _ = await pods.send(text(1, 1000), address)
    await matched(pods)
    assert pods.view.matches["bound"] >= 1
    assert pods.hits(first, address) > 0.9
    for number in range(2, 7):
        last, _ = await pods.send(text(number, 1000), address)
    await wait_until(lambda: pods.hits(first, address) < 0.05, 10)
    assert pods.hits(first, address, trusted=True) > 0.9
    assert pods.hits(last, address) > 0.9
    again, cached = await pods.send(text(1, 1000), address)
    assert again == first
    assert cached == 0


async def test_what_another_gateway_placed_is_expected_too(pods):
    await pods.start(2, kv_tokens=8192)
    pods.follow()
    await listening(pods)
    here, there = pods.addresses
    prompt, _ = await pods.send(text(1, 1000), here)
    await matched(pods)
    body = {"model": "m", "messages": [{"role": "user", "content": text(1, 1000)}], "max_tokens": 4}
    async with pods.session.post(f"http://{there}/v1/chat/completions", json=body) as response:
        assert response.status == 200
    await wait_until(lambda: pods.hits(prompt, there) > 0.9, 10)
    assert pods.hits(prompt, there, trusted=True) == 0.0


@pytest.mark.parametrize("replay", [False, True])
async def test_a_cleared_cache_and_a_restart_leave_nothing_to_expect(pods, replay):
    extra = {"kv_events_replay_port": REPLAY} if replay else {}
    await pods.start(1, kv_tokens=8192, **extra)
    pods.follow(replay=replay)
    await listening(pods)
    (address,) = pods.addresses
    if replay:
        assert pods.rows()[address]["state"] == "whole"
    prompt, _ = await pods.send(text(1, 1000), address)
    assert pods.hits(prompt, address) > 0.9
    async with pods.session.post(f"http://{address}/reset_prefix_cache") as response:
        assert response.status == 200
    await wait_until(lambda: pods.hits(prompt, address) == 0.0, 10)
    again, cached = await pods.send(text(1, 1000), address)
    assert cached == 0
    assert pods.hits(again, address) > 0.9

    # Its numbers must be beyond those the new engine reaches until the subscriber is there again.
    for number in range(60):
        await pods.send(text(30_000 + number, 64), address)
    ip = address.partition(":")[0]
    pods.simulators.stop(ip)
    await pods.simulators.restart(ip)

    async def restarted():
        await pods.send(text(20_000 + pods.sent, 64), address)
        return pods.subscriber.restarts

    await wait_until(restarted, 20, interval=0.5)
    assert pods.hits(prompt, address) == 0.0
    row = pods.rows()[address]
    # The first messages of a new engine are gone before the subscriber is there again, unless they are replayed.
    assert row["state"] == "whole" or not replay
    assert row["replay_url"] == (f"tcp://{ip}:{REPLAY}" if replay else None)


async def test_many_prompts_in_a_small_cache_are_expected_where_they_are(pods):
    """Conversations over shared beginnings, in a cache that holds a part of them; what is expected against what was found."""
    await pods.start(1, kv_tokens=8192, kv_events_encoding="map")
    pods.follow()
    await listening(pods)
    (address,) = pods.addresses
    wrong = {False: 0.0, True: 0.0}
    total = 0.0
    for number in range(60):
        beginning = text(number % 3, 300)
        prompt = beginning + text(1000 + number % 13, 500)
        probe = prefix_of(parse("/v1/chat/completions", {}, body_of(prompt)))
        before = {trusted: pods.hits(probe, address, trusted=trusted) for trusted in wrong}
        _, cached = await pods.send(prompt, address)
        await matched(pods)
        tokens = probe.size / 4
        total += tokens
        for trusted in wrong:
            wrong[trusted] += max(0.0, before[trusted] * tokens - cached)
    assert wrong[True] > 0.1 * total, "the cache holds all: nothing is shown"
    assert wrong[False] < 0.2 * wrong[True]


async def test_pods_without_events_are_silent(pods, caplog):
    await pods.start(1, kv_events_port=0)
    pods.follow()
    (address,) = pods.addresses
    for number in range(4):
        prompt, _ = await pods.send(text(number, 400), address)
    await wait_until(lambda: pods.rows()[address]["state"] == "silent", 10)
    assert pods.hits(prompt, address) > 0.9
    assert len([record for record in caplog.records if "KV event stream" in record.message]) == 1
    page = generate_latest(pods.registry).decode()
    assert 'ralb_kv_event_pods{pool="ns/p",state="silent"} 1.0' in page
