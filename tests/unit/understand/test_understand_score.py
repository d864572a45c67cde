"""Plain cases land where people put them, and every figure can be accounted for."""

import math
import timeit
from pathlib import Path
from typing import Any

import pytest
from support_routing import ask, chat, parsed

from ralb_extproc.types import Request, Turn, Understanding
from ralb_extproc.understand import DEFAULT, INTENTS, FeatureScore, Understander, observe
from ralb_extproc.understand import score as module
from ralb_extproc.understand.score import BIAS, complexity_terms

EASY = [
    "hi",
    "Hello, how are you?",
    "thanks a lot!",
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "What time is it in Tokyo?",
    "How many days are there in a leap year?",
    "Is 17 a prime number?",
    "Extract all email addresses from this text: contact bob@example.com or alice@example.org for details.",
    "Classify the sentiment of this review as positive or negative: The food was great.",
    "Label this ticket as billing, technical or other: I can not log in.",
    "Translate 'good morning' to French",
    "Fix the spelling and grammar: he go to school yesterday",
    "Write a haiku about autumn",
    "Hola, gracias por todo",
    "你好",
    "fix it",
]
MEDIUM = [
    "Summarize the following article in three bullet points: The city council met on Tuesday to discuss the budget. Members "
    "disagreed on the priorities for road repair and school funding, and after four hours they agreed to postpone the vote.",
    "Write a python function that reverses a linked list",
    "Write a SQL query that returns the top five customers by revenue per region, with ties broken by signup date",
    "Explain why the sky is blue",
    "Explain the difference between TCP and UDP, and why games often use UDP.",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May?",
    "Solve the equation x^2 - 5x + 6 = 0",
    "Review this essay and point out its weaknesses",
    "Plan a 3 day trip to Rome",
]
HARD = [
    "Prove that there are infinitely many primes.",
    "Prove that every continuous function on a compact metric space is uniformly continuous.",
    "Design a distributed key-value store with linearizable reads across three regions and explain the failure modes",
    "Design the architecture of a multi-region payment service with exactly-once processing. Discuss consistency trade-offs.",
    "Create a detailed plan to migrate our monolith to microservices with zero-downtime, including rollback, dependencies "
    "and phases",
    "Our service deadlocks intermittently under load. Here is the stack trace of two threads; find the race condition and "
    "explain the root cause.",
    "Debug this memory leak in our C++ server: the heap grows by 2 MB per hour, only when TLS sessions resume concurrently",
    "I have to plan logistics to transport packages within cities via trucks and between cities via airplanes. Each truck "
    "must stay in its city. First load every package, then drive, then unload. Give the plan with the least number of steps, "
    "such that no truck is used at most twice.",
]


def judge(text: str, **fields: Any) -> Understanding:
    return DEFAULT.understand(parsed(chat(text, **fields)))


@pytest.mark.parametrize("text", EASY)
def test_easy(text: str) -> None:
    assert judge(text).complexity < 0.35


@pytest.mark.parametrize("text", MEDIUM)
def test_medium(text: str) -> None:
    assert 0.33 <= judge(text).complexity <= 0.72


@pytest.mark.parametrize("text", HARD)
def test_hard(text: str) -> None:
    assert judge(text).complexity > 0.7


def agent(steps: int, result: str = "file contents " * 200) -> Request:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    tools = [{"type": "function", "function": {"name": f"tool_{i}"}} for i in range(8)]
    turns = [message for _ in range(steps) for message in (call, {"role": "tool", "content": result})]
    return parsed(chat("Make the failing test pass.", *turns, tools=tools))


def test_agents_get_harder_as_they_go_on() -> None:
    complexities = [DEFAULT.understand(agent(steps)).complexity for steps in (0, 1, 4, 16)]
    assert complexities == sorted(complexities)
    assert complexities[0] < 0.35
    assert complexities[-1] > 0.7


def test_what_the_client_says_about_effort_counts() -> None:
    text = "Explain why the sky is blue"
    efforts = [judge(text, reasoning_effort=effort).complexity for effort in ("minimal", "low", "medium", "high")]
    assert efforts == sorted(efforts)
    assert efforts[-1] - efforts[0] > 0.2
    assert judge(text, reasoning_effort="unheard-of").complexity == judge(text).complexity


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Classify the sentiment of this review as positive or negative: The food was great.", "intent-classification"),
        ("Extract all dates and named entities from the contract below.", "extraction"),
        ("Translate the following paragraph into German.", "transformation"),
        ("Is this comment toxic or harmful? Moderate it: you are an idiot", "safety"),
        ("Summarize the report in two sentences.", "compression"),
        ("All bloops are razzies, some razzies are lazzies. Is the conclusion valid, true or false?", "simple-logic"),
        ("Create a project plan with milestones and a timeline for the launch.", "planning"),
        ("fix it", "ambiguity"),
        ("", "ambiguity"),
        ("Review this essay and assess its weaknesses", "critique"),
        ("Write a python function that reverses a linked list", "code"),
        ("```\nint main() { return 0; }\n```\nWhat does this print?", "code"),
        ("Solve the equation x^2 - 5x + 6 = 0", "maths"),
        ("Prove the theorem by induction.", "maths"),
        ("Write a short story about a dragon", "creative"),
        ("Hello, how are you?", "chat"),
        ("What is the capital of France?", "chat"),
        ("总结下面的文章", "compression"),
        ("Traduce este texto al inglés: hola", "transformation"),
        ("Écris un poème sur la mer", "creative"),
    ],
)
def test_intents(text: str, intent: str) -> None:
    assert judge(text).intent == intent


def test_tool_calling_is_judged_by_structure_and_never_by_words() -> None:
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    assert judge("Call the get_weather tool for Paris with a function call").intent != "tool-calling"
    for text in ("hi", "Write a story about a dragon", "Prove the theorem"):
        assert judge(text, tools=tools).intent == "tool-calling"
        assert judge(text, tools=tools, tool_choice="none").intent != "tool-calling"
    offered, forced = judge("hi", tools=tools), judge("hi", tools=tools, tool_choice="required")
    assert forced.confidence > DEFAULT.understand(agent(1)).confidence > offered.confidence


def test_system_prompts_can_state_the_task() -> None:
    system = {"role": "system", "content": "You are a classifier. Classify each message as spam or not spam."}
    found = DEFAULT.understand(parsed(chat(system, "Win a million dollars now at our casino")))
    assert found.intent == "intent-classification"


def test_confidence_grows_with_the_evidence_and_falls_with_rivals() -> None:
    clear = judge("Translate and rephrase this paragraph, then proofread its grammar")
    plain = judge("Which city is that")
    rivals = judge("Write a poem, then python code, then a summary, then a plan")
    assert clear.confidence > 0.7
    assert rivals.confidence < clear.confidence
    assert plain.confidence < clear.confidence
    assert judge("fix it").confidence <= 0.35


@pytest.mark.parametrize(
    ("said", "label", "decides"),
    [
        ("code", "code", True),
        (" Tool-Calling ", "tool-calling", True),
        ("deep-think", "deep-think", False),
        ("two words", "", False),
        ("ümlaut", "", False),
        ("x" * 65, "", False),
        ("-leading", "", False),
        ("", "", False),
    ],
)
def test_the_clients_label(said: str, label: str, decides: bool) -> None:
    found = DEFAULT.understand(ask(headers={"x-ralb-intent": said}, turns=(Turn("user", "hello there"),)))
    assert found.label == label
    if decides:
        assert (found.intent, found.confidence) == (label, 1.0)
    else:
        assert found.intent == "chat"
        assert found.confidence < 1.0


def test_the_workload_class_is_taken_over() -> None:
    assert DEFAULT.understand(ask(headers={"x-ralb-workload-class": "Batch"})).workload_class == "batch"
    assert DEFAULT.understand(ask(headers={"x-ralb-workload-class": "no such, thing"})).workload_class == ""


def test_complexity_is_the_logistic_of_the_sum_of_its_terms() -> None:
    for text in (*EASY, *MEDIUM, *HARD):
        request = parsed(chat(text))
        terms = complexity_terms(observe(request))
        z = BIAS + sum(value for _, value in terms)
        found = DEFAULT.understand(request)
        assert found.complexity == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-4)
        strongest = sorted((abs(value) for _, value in terms), reverse=True)[:5]
        assert [abs(value) for _, value in found.reasons] == pytest.approx(strongest, abs=1e-3)
        assert all(words for words, _ in found.reasons)


def test_every_intent_can_be_reached_and_none_is_unknown() -> None:
    named = {intent for intent, _ in module.EVIDENCE.values()} | {"tool-calling", "ambiguity", "chat"}
    assert named == set(INTENTS)


def test_it_is_an_understander_with_a_version() -> None:
    scorer: Understander = FeatureScore()
    assert scorer.version
    assert scorer.understand(ask()).model == scorer.version
    assert scorer.understand(ask()) == scorer.understand(ask())


@pytest.mark.parametrize(("characters", "budget"), [(1_000, 0.2e-3), (100_000, 1e-3)])
def test_it_is_quick(characters: int, budget: float) -> None:
    text = "Explain how the quick brown fox, number 12, jumps over the lazy dog and then goes home.\n- why?\n"
    request = ask(turns=(Turn("user", (text * (characters // len(text) + 1))[:characters]),))
    best = min(timeit.repeat(lambda: DEFAULT.understand(request), number=10, repeat=10)) / 10
    # The budget is for a quiet machine; three times as much on a busy one still shows a slip into quadratic work.
    assert best < 3 * budget


def test_the_page_tells_the_weights_in_use() -> None:
    page = (Path(__file__).parents[3] / "docs" / "understanding.md").read_text(encoding="utf-8")
    for family, (weight, keep, words) in module.FAMILY_TERMS.items():
        assert f"| `{family}` | {weight:+.1f} | {keep} | {words} |" in page
    for family, (intent, amount) in module.EVIDENCE.items():
        assert f"| `{family}` | {intent} | {amount} |" in page
    for effort, value in module.EFFORT_TERMS.items():
        assert f"{effort} {value:+.1f}" in page
    assert f"z = {BIAS} +" in page
    assert module.VERSION in page
