"""Every API, as JSON and as a stream, through the whole stack: right tier and model, a record that agrees with the server."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from support_stack import Stack, policy, pool, running_stack, tier

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

DEEP = {"name": "deep", "when": {"labels": ["deep"]}, "use": {"tier": "big"}}
OBJECTS = (
    pool("small", "acme/small-8b", 2, time_scale=0.5),
    pool("big", "acme/big-70b", 1, time_scale=0.5, profile="llama-3-70b-4xh100", reasoning_share=0.5),
    pool("vectors", "acme/vectors", 1, spec={"model": {"name": "acme/vectors", "capabilities": ["Embeddings"]}}),
    tier("small", 1, {"name": "small"}),
    tier("big", 3, {"name": "big"}),
    tier("vectors", 1, {"name": "vectors"}),
    policy("auto", "small", DEEP),
    policy("vectors", "vectors", models=["embed"]),
)
MODELS = {"small": "acme/small-8b", "big": "acme/big-70b", "vectors": "acme/vectors"}
TURNS = [{"role": "user", "content": "Tell me a story about a lighthouse."}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[Stack]:
    async with running_stack(*OBJECTS) as running:
        yield running


@dataclass(frozen=True)
class Case:
    path: str
    body: dict[str, Any]
    stream: bool = False


@dataclass(frozen=True)
class Said:
    """What the server said: model names in the answer, tokens it counted, text."""

    models: set[str]
    tokens_in: int
    tokens_out: int
    text: str


# As the server's usage objects name them.
_IN, _OUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
CASES = {
    "chat": Case("/v1/chat/completions", {"messages": TURNS, "max_tokens": 20}),
    "completions": Case("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 20}),
    "responses": Case("/v1/responses", {"input": "Tell me a story.", "max_output_tokens": 20}),
    "messages": Case("/v1/messages", {"messages": TURNS, "max_tokens": 20}),
}
CASES |= {f"{name}-stream": Case(case.path, case.body, stream=True) for name, case in CASES.items()}


def _events(page: str) -> list[Any]:
    """The data of all events; ``[DONE]`` left out."""
    assert page.endswith("\n\n")
    data = [line[6:] for line in page.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def _everything(value: Any) -> list[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, list):
        return [each for item in value for each in _everything(item)]
    if isinstance(value, dict):
        return [value, *(each for item in value.values() for each in _everything(item))]
    return []


def _said(answer: list[Any]) -> Said:
    objects = _everything(answer)
    usages = [each["usage"] for each in objects if each.get("usage")]
    counts = [
        max((usage[name] for usage in usages for name in names if usage.get(name) is not None), default=0)
        for names in (_IN, _OUT)
    ]
    text = "".join(
        value
        for each in objects
        for name in ("text", "content", "delta", "reasoning", "thinking")
        if isinstance(value := each.get(name), str)
    )
    return Said({each["model"] for each in objects if "model" in each}, counts[0], counts[1], text)


async def _ask(stack: Stack, case: Case, model: str, label: str) -> tuple[Said, dict[str, str], dict[str, Any]]:
    body = {"model": model, **case.body} | ({"stream": True} if case.stream else {})
    async with stack.session.post(stack.url + case.path, json=body, headers={"x-ralb-intent": label}) as response:
        page = await response.text()
        headers = {name.lower(): value for name, value in response.headers.items()}
        assert response.status == 200, page
    if case.stream:
        assert headers["content-type"].startswith("text/event-stream")
        assert page.endswith("data: [DONE]\n\n") == ("responses" not in case.path and "messages" not in case.path)
    answer = _events(page) if case.stream else [json.loads(page)]
    return _said(answer), headers, await stack.record(headers["x-ralb-decision-id"])


@pytest.mark.parametrize("wanted", ["small", "big"])
@pytest.mark.parametrize("name", CASES)
async def test_generation(stack: Stack, name: str, wanted: str) -> None:
    case = CASES[name]
    said, headers, record = await _ask(stack, case, "auto", "deep" if wanted == "big" else "")
    assert said.models == {MODELS[wanted]}
    assert said.text
    assert 0 < said.tokens_out <= 20
    assert headers["x-ralb-tier"] == wanted
    assert headers["x-ralb-pool"] == f"default/{wanted}"
    assert headers["x-ralb-model"] == MODELS[wanted]
    assert record["path"] == case.path
    assert record["request"]["stream"] is case.stream
    assert record["plan"]["tier"] == wanted
    assert record["placement"]["model"] == MODELS[wanted]
    outcome = record["outcome"]
    assert (outcome["status"], outcome["attempts"], outcome["pool"]) == (200, 1, f"default/{wanted}")
    assert outcome["endpoint"] in {pod["address"] for pod in stack.pods(wanted)}
    assert outcome["tokens"]["estimated"] is False
    assert (outcome["tokens"]["in"], outcome["tokens"]["out"]) == (said.tokens_in, said.tokens_out)
    assert 0 < outcome["ttft_s"] <= outcome["duration_s"]
    if case.stream:
        # Tokens come one by one; who takes the headers or the last byte for the first token would not see it.
        assert outcome["ttft_s"] < 0.75 * outcome["duration_s"]


async def test_reasoning_tokens_are_counted(stack: Stack) -> None:
    for name in ("chat", "chat-stream", "responses"):
        case = CASES[name]
        _, _, record = await _ask(stack, case, "auto", "deep")
        assert record["outcome"]["tokens"]["reasoning"] > 0, name


@pytest.mark.parametrize("value", ["One text", ["One text", "another one"], [1, 2, 3]], ids=["text", "texts", "tokens"])
async def test_embeddings(stack: Stack, value: Any) -> None:
    case = Case("/v1/embeddings", {"input": value})
    said, headers, record = await _ask(stack, case, "embed", "")
    assert said.models == {"acme/vectors"}
    assert (headers["x-ralb-tier"], headers["x-ralb-pool"]) == ("vectors", "default/vectors")
    outcome = record["outcome"]
    assert outcome["tokens"]["in"] == said.tokens_in > 0
    assert outcome["tokens"]["out"] == 0
    assert 0 < outcome["ttft_s"] <= outcome["duration_s"]


async def test_model_that_only_embeds_does_not_chat(stack: Stack) -> None:
    body = {"model": "acme/vectors", **CASES["chat"].body}
    async with stack.session.post(stack.url + "/v1/chat/completions", json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "unsupported_by_model"


async def test_stream_arrives_as_it_is_made(stack: Stack) -> None:
    """Neither Envoy nor anything else gathers a stream before it passes it on."""
    body = {
        "model": "auto",
        "stream": True,
        "messages": TURNS,
        "max_tokens": 100,
        "min_tokens": 100,
        "ignore_eos": True,
    }
    reads = 0
    async with stack.session.post(stack.url + "/v1/chat/completions", json=body) as response:
        async for chunk, _ in response.content.iter_chunks():
            reads += bool(chunk)
    assert reads > 20


async def test_models_of_all_kinds_are_listed(stack: Stack) -> None:
    async with stack.session.get(stack.url + "/v1/models") as response:
        names = {entry["id"] for entry in (await response.json())["data"]}
    assert names == {"auto", "embed", *MODELS.values()}
