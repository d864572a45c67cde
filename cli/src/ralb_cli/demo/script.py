"""The requests of the demo, each with what should become of it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the demo.

    Attributes:
        what: a few words for the table.
        body: JSON body.
        tier: the tier that should serve it; "" for a model asked for by name.
        path: API.
        headers: extra request headers.
        pool: expected pool where no tier is.
    """

    what: str
    body: dict[str, Any]
    tier: str
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    pool: str = ""

    @property
    def stream(self) -> bool:
        """Whether the answer is streamed."""
        return bool(self.body.get("stream"))


def _chat(text: str, *, system: str = "", stream: bool = False, model: str = "auto", **extra: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    return {"model": model, "messages": [*messages, {"role": "user", "content": text}], "stream": stream, **extra}


def _tool(name: str, description: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


_TICKET = "Ticket: 'I was charged twice for my March invoice and want the second payment back.'"
_PROOF = (
    "Prove that there are infinitely many primes congruent to 3 modulo 4. State every lemma you use, prove each of them, "
    "and explain why the same argument does not work for primes congruent to 1 modulo 4."
)
_DESIGN = (
    "Design a globally distributed ledger that stays available during a network partition between regions. Compare at least "
    "three consensus protocols, derive the latency of each under 150 ms round trips, plan the migration from a single "
    "PostgreSQL primary step by step with a rollback for every step, and analyse which invariants can break at each step."
)
_REPORT = (
    "The quarterly review of the logistics programme covers warehouses, carriers, customs and returns. "
    "Each region reports volumes, delays, damage and cost, and explains deviations from plan. "
)

SCRIPT: tuple[Ask, ...] = (
    Ask("greeting", _chat("Hello there!", max_tokens=16), "small"),
    Ask(
        "classify a ticket",
        _chat(
            f"{_TICKET} Which category is it: billing, shipping or login? Answer with one word.",
            system="You sort support tickets.",
            max_tokens=4,
        ),
        "small",
    ),
    Ask(
        "extract to JSON",
        _chat(
            "Extract the name and the date from: 'The lease was signed by the tenant on 4 May 2026.'",
            response_format={"type": "json_object"},
            max_tokens=40,
        ),
        "small",
    ),
    Ask("short fact, streamed", _chat("What is the capital of Australia?", stream=True, max_tokens=24), "small"),
    Ask(
        "Anthropic API, translate",
        {
            "model": "auto",
            "max_tokens": 32,
            "messages": [{"role": "user", "content": "Translate to French: good morning"}],
        },
        "small",
        path="/v1/messages",
    ),
    Ask(
        "write a function",
        _chat(
            "Write a Python function that merges overlapping intervals given as a list of [start, end] pairs, handles empty "
            "input, and add unit tests for the edge cases.",
            max_tokens=160,
        ),
        "mid",
    ),
    Ask(
        "explain, streamed",
        _chat(
            "Explain why the sum of two independent Poisson variables is Poisson again, and what goes wrong when they are "
            "correlated. Give an example with numbers for both cases.",
            stream=True,
            max_tokens=160,
        ),
        "mid",
    ),
    Ask(
        "tools offered",
        _chat(
            "What will the weather be in Oslo tomorrow?",
            tools=[_tool("get_forecast", "Weather forecast for a city and day", "city", "day")],
            max_tokens=48,
        ),
        "mid",
    ),
    Ask(
        "agent turn with tool results",
        {
            "model": "auto",
            "stream": True,
            "max_tokens": 64,
            "tools": [
                _tool("run_query", "Runs SQL and returns rows", "sql"),
                _tool("send_report", "Sends a report", "text"),
            ],
            "messages": [
                {"role": "system", "content": "You answer questions about the sales database with the tools."},
                {"role": "user", "content": "Which region sold most last month?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {
                                "name": "run_query",
                                "arguments": '{"sql": "select region, sum(x) from sales"}',
                            },
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "north 120311\nsouth 98441\nwest 130004"},
            ],
        },
        "mid",
    ),
    Ask("long context", _chat(f"{_REPORT * 1000}\nSummarise the report in three sentences.", max_tokens=64), "mid"),
    Ask("proof, streamed", _chat(_PROOF, stream=True, max_tokens=256), "frontier"),
    Ask("plan a distributed system", _chat(_DESIGN, max_tokens=256), "frontier"),
    Ask(
        "asked for by label",
        _chat("Is this contract clause enforceable?", max_tokens=64),
        "frontier",
        headers={"x-ralb-intent": "deep-think"},
    ),
    Ask(
        "responses API",
        {"model": "auto", "input": "Say thank you in Japanese.", "max_output_tokens": 24},
        "small",
        path="/v1/responses",
    ),
    Ask("model by name", _chat("Hello there!", model="llama-3.3-70b", max_tokens=16), "", pool="default/mid"),
)
