"""Requests and watches against a server that misbehaves."""

import asyncio
import logging
from pathlib import Path

import pytest
from support_fake_api import FakeApi, Fault
from support_net import wait_until

from ralb_operator.cluster import client as module
from ralb_operator.cluster.client import ApiClient, ApiError
from ralb_operator.cluster.credentials import CredentialsError, CredentialsSource

PATH = "/api/v1/pods"
SECRET = "s3cret-t0ken-value"


async def test_answers_are_parsed(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a")
    answer = await client.request("GET", PATH)
    assert [item["metadata"]["name"] for item in answer["items"]] == ["a"]


async def test_bodies_are_sent(api: FakeApi, client: ApiClient) -> None:
    await client.request("POST", PATH, body={"x": 1})
    assert api.bodies == [{"x": 1}]


async def test_refusals_carry_the_servers_words(api: FakeApi, client: ApiClient) -> None:
    with pytest.raises(ApiError) as caught:
        await client.request("GET", "/api/v1/nothing")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (404, "NotFound", "NotFound it is")


@pytest.mark.parametrize("status", [429, 503])
async def test_reads_are_patient_when_asked(api: FakeApi, client: ApiClient, status: int) -> None:
    api.objects[PATH] = {}
    api.faults += [Fault(status, "TooMany", {"Retry-After": "0"})] * 2
    assert (await client.request("GET", PATH))["items"] == []
    assert len(api.requests) == 3


async def test_patience_is_bounded(api: FakeApi, client: ApiClient) -> None:
    api.faults += [Fault(429, "TooMany", {"Retry-After": "0"}) for _ in range(20)]
    with pytest.raises(ApiError) as caught:
        await client.request("GET", PATH)
    assert (caught.value.status, caught.value.retry_after) == (429, 0.0)
    assert len(api.requests) == 4


async def test_writes_are_sent_once(api: FakeApi, client: ApiClient) -> None:
    api.faults.append(Fault(429, "TooMany", {"Retry-After": "0"}))
    with pytest.raises(ApiError):
        await client.request("POST", PATH, body={})
    assert len(api.requests) == 1


async def test_a_hanging_server_is_left(api: FakeApi, client: ApiClient) -> None:
    api.faults.append(Fault(hang=True))
    with pytest.raises(ApiError) as caught:
        await client.request("GET", PATH, timeout=0.1)
    assert caught.value.reason == "Timeout"


async def test_lists_that_wait_hold_up_nobody_else(api: FakeApi, client: ApiClient) -> None:
    """An overloaded server lets lists wait; Leases are served apart there, and must be renewed."""
    lease = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/x"
    api.objects |= {PATH: {}, lease: {}}
    api.faults += [Fault(hang=True, path=PATH) for _ in range(100)]
    lists = [asyncio.create_task(client.request("GET", PATH, params={"limit": "500"})) for _ in range(100)]
    await wait_until(lambda: len(api.requests) == module._CONCURRENT)
    assert await client.request("GET", lease, timeout=5.0)
    assert api.count(PATH, watch=False) == module._CONCURRENT, "no more lists at once"
    for task in lists:
        task.cancel()
    await asyncio.gather(*lists, return_exceptions=True)


async def test_garbage_is_not_an_answer(api: FakeApi, client: ApiClient) -> None:
    api.faults.append(Fault(body=b"<html>"))
    with pytest.raises(ApiError, match="not JSON"):
        await client.request("GET", PATH)


async def test_endless_answers_end(api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESPONSE_BYTES", 100)
    api.faults.append(Fault(body=b" " * 1000))
    with pytest.raises(ApiError, match="larger than 100 bytes"):
        await client.request("GET", PATH)


async def test_nobody_there(tmp_path: Path) -> None:
    api = FakeApi()
    api.url = "http://127.0.0.1:1"
    async with ApiClient(CredentialsSource(api.kubeconfig(tmp_path))) as client:
        with pytest.raises(ApiError, match="cannot be reached"):
            await client.request("GET", PATH)


async def test_redirects_are_not_followed(api: FakeApi, client: ApiClient) -> None:
    """A token goes to nobody but the server it is for."""
    api.faults.append(Fault(307, "Moved", {"Location": f"{api.url}/elsewhere"}))
    with pytest.raises(ApiError) as caught:
        await client.request("GET", PATH)
    assert caught.value.status == 307
    assert [path for _, path, _ in api.requests] == [PATH]


# ---- credentials ----


async def test_a_rotated_token_is_read_again(api: FakeApi, tmp_path: Path) -> None:
    api.objects[PATH] = {}
    api.token = "old"
    async with ApiClient(CredentialsSource(api.kubeconfig(tmp_path, "old"))) as client:
        await client.request("GET", PATH)
        api.token = "new"
        api.kubeconfig(tmp_path, "new")
        await client.request("GET", PATH)
        assert len(api.requests) == 3


async def test_a_refused_token_is_asked_for_once(api: FakeApi, tmp_path: Path) -> None:
    api.token = "right"
    async with ApiClient(CredentialsSource(api.kubeconfig(tmp_path, "wrong"))) as client:
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                await client.request("GET", PATH)
            assert caught.value.status == 401
    # The first is tried again with what was read anew; then that is left alone for a while.
    assert len(api.requests) == 4


async def test_tokens_stay_out_of_sight(api: FakeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api.objects[PATH] = {}
    async with ApiClient(CredentialsSource(api.kubeconfig(tmp_path, SECRET))) as client:
        shown = [repr(await client.credentials()), repr(client)]
        api.token = "another"
        for path in (PATH, "/nothing"):
            with pytest.raises(ApiError) as caught:
                await client.request("GET", path)
            shown += [repr(caught.value), str(caught.value)]
        api.url = "http://127.0.0.1:1"
        api.kubeconfig(tmp_path, SECRET)
    async with ApiClient(CredentialsSource(str(tmp_path / "kubeconfig"))) as client:
        with pytest.raises(ApiError) as caught:
            await client.request("GET", PATH)
        shown += [repr(caught.value), repr(caught.value.__cause__)]
    assert SECRET not in "\n".join(shown) + caplog.text


@pytest.mark.parametrize("text", ["", "{", "kind: Config\ntoken: [" + SECRET])
async def test_unusable_kubeconfigs_are_explained(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    async with ApiClient(CredentialsSource(str(file))) as client:
        with pytest.raises(CredentialsError, match="no usable credentials") as caught:
            await client.request("GET", PATH)
    assert SECRET not in str(caught.value)


# ---- watch ----


async def watched(client: ApiClient, since: int, **options: float) -> list[str]:
    found = []
    async for event in client.watch(PATH, {"resourceVersion": str(since)}, **options):
        found.append(f"{event['type']} {event['object']['metadata']['name']}")
    return found


async def test_half_a_line_is_no_event(api: FakeApi, client: ApiClient) -> None:
    line = b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n'
    api.faults.append(Fault(body=line + b"\n" + line[:-10]))
    assert await watched(client, 0) == ["ADDED a"]


async def test_a_cut_watch_is_an_error(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a")
    events = client.watch(PATH, {"resourceVersion": "0"})
    assert (await anext(events))["object"]["metadata"]["name"] == "a"
    api.cut()
    with pytest.raises(ApiError, match="broke"):
        await anext(events)


@pytest.mark.parametrize("body", [b"nonsense\n", b"[1]\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":3}\n'])
async def test_garbage_is_no_event(api: FakeApi, client: ApiClient, body: bytes) -> None:
    api.faults.append(Fault(body=body))
    with pytest.raises(ApiError, match="a line of the watch is not"):
        await watched(client, 0)


async def test_lines_are_bounded(api: FakeApi, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    api.faults.append(Fault(body=b"x" * 5000))
    with pytest.raises(ApiError, match="larger than 1000"):
        await watched(client, 0)


async def test_a_gap_says_so(api: FakeApi, client: ApiClient) -> None:
    api.put(PATH, "a")
    api.gap()
    with pytest.raises(ApiError) as caught:
        await watched(client, 1)
    assert caught.value.gone
    assert caught.value.status == 410


async def test_a_silent_watch_ends(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    with pytest.raises(ApiError) as caught:
        await watched(client, 100, inactivity=0.1)
    assert caught.value.reason == "Inactive"


async def test_many_requests_take_turns(api: FakeApi, client: ApiClient) -> None:
    api.objects[PATH] = {}
    answers = await asyncio.gather(*(client.request("GET", PATH) for _ in range(100)))
    assert len(answers) == 100
