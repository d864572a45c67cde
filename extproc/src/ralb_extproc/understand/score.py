"""A transparent judgement of a request's features.

Complexity is the logistic of a sum whose every term can be shown to a person; intent is the task with most evidence.

    z = BIAS + sum of terms            complexity = 1 / (1 + exp(-z))
    a count n of a word family gives   weight * (1 - keep ** n)       so repetition adds ever less

The weights were set by hand so that plain cases land where people put them (docs/understanding.md lists them all); they were
not fitted to any data set. Traps: complexity says how much ability a request wants, not how long it takes; a long document
to be summarised is work, but not hard work. Tool calling is judged by structure alone: words about tools decide nothing.
"""

import math
import re
from typing import Final

from ralb_api import headers as names
from ralb_api.intents import INTENTS
from ralb_extproc.types import Request, Understanding
from ralb_extproc.understand.features import Features, observe

VERSION: Final = "features-1"
MAX_REASONS: Final = 5

BIAS: Final = -1.8

# family -> (weight, keep, words for a person); see the module docstring for how they add up.
FAMILY_TERMS: Final[dict[str, tuple[float, float, str]]] = {
    "proof": (3.3, 0.25, "asks for proof"),
    "design": (3.0, 0.5, "is about system design"),
    "debug": (2.6, 0.5, "is about a hard kind of fault"),
    "plan": (2.2, 0.5, "asks for a plan"),
    "depth": (1.8, 0.5, "asks for depth or rigour"),
    "explain": (1.4, 0.5, "asks for an explanation"),
    "critique": (1.4, 0.5, "asks for judgement"),
    "code": (1.3, 0.5, "is about code"),
    "maths": (1.1, 0.5, "is about maths"),
    "constraint": (1.0, 0.7, "sets constraints"),
    "sequence": (0.9, 0.7, "has several steps"),
    "logic": (0.9, 0.6, "is a matter of logic"),
    "creative": (0.7, 0.5, "asks for writing"),
    "compress": (0.9, 0.3, "asks for a summary"),
    "transform": (-0.3, 0.5, "asks for a rewording or translation"),
    "extract": (-0.9, 0.5, "asks to pick something out"),
    "classify": (-1.1, 0.5, "asks to choose a label"),
    "brief": (-0.9, 0.5, "asks for something brief or simple"),
    "greeting": (-1.4, 0.5, "is a greeting or thanks"),
}
EFFORT_TERMS: Final = {"none": -0.8, "minimal": -0.8, "low": -0.4, "medium": 0.4, "high": 1.2, "xhigh": 1.5, "max": 1.5}

# family -> (intent, evidence per occurrence up to three).
EVIDENCE: Final[dict[str, tuple[str, float]]] = {
    "classify": ("intent-classification", 1.3),
    "extract": ("extraction", 1.3),
    "transform": ("transformation", 1.3),
    "safety": ("safety", 1.3),
    "compress": ("compression", 1.5),
    "logic": ("simple-logic", 0.7),
    "plan": ("planning", 1.0),
    "design": ("planning", 0.8),
    "critique": ("critique", 1.0),
    "code": ("code", 0.9),
    "debug": ("code", 0.8),
    "maths": ("maths", 0.8),
    "proof": ("maths", 1.2),
    "creative": ("creative", 1.2),
    "write": ("creative", 0.8),
    "greeting": ("chat", 1.5),
    "explain": ("chat", 0.5),
}
OPENING_EVIDENCE: Final = 1.5
CHAT_PRIOR: Final = 0.9
_SYSTEM_TASKS: Final = ("classify", "extract", "transform", "compress", "safety", "critique")

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FeatureScore:
    """The understander that needs no training: the same request always gives the same answer, with its reasons."""

    @property
    def version(self) -> str:
        """Name and version."""
        return VERSION

    def understand(self, request: Request) -> Understanding:
        """Judge one request."""
        seen = observe(request)
        terms = complexity_terms(seen)
        complexity = logistic(BIAS + sum(value for _, value in terms))
        label = header_word(request, names.INTENT)
        intent, confidence = (label, 1.0) if label in _KNOWN else judge_intent(seen)
        terms.sort(key=_weight, reverse=True)
        return Understanding(
            intent=intent,
            complexity=round(complexity, 4),
            confidence=round(confidence, 4),
            label=label,
            workload_class=header_word(request, names.WORKLOAD_CLASS),
            reasons=tuple((words, round(value, 3)) for words, value in terms[:MAX_REASONS]),
            model=VERSION,
        )


_KNOWN: Final = frozenset(INTENTS)


def header_word(request: Request, name: str) -> str:
    """A header's value in lower case if it is one word of at most 64 plain characters, else "" (it is then ignored)."""
    value = request.headers.get(name, "").strip()
    return value.lower() if _WORD.fullmatch(value) else ""


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)), for any finite z."""
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, z))))


def complexity_terms(seen: Features) -> list[tuple[str, float]]:
    """Every term that moves complexity away from the bias: (words for a person, signed value)."""
    terms = [
        (words, weight * (1.0 - keep**count))
        for family, count in seen.families.items()
        if (entry := FAMILY_TERMS.get(family))
        for weight, keep, words in (entry,)
    ]
    add = terms.append
    if seen.words > 3:
        add((f"{seen.words} words long", min(1.3, 0.26 * math.log2(1 + seen.words / 12))))
    else:
        add(("hardly any words", -0.6))
    if seen.numbers:
        add(("has numbers", 0.7 * (1.0 - 0.85**seen.numbers)))
    if seen.symbols:
        add(("has formulas", 0.9 * (1.0 - 0.8**seen.symbols)))
    if seen.code_blocks or seen.code_lines:
        add(("contains code", 0.9 * (1.0 - 0.7 ** (seen.code_blocks * 3 + seen.code_lines))))
    if seen.list_items:
        add(("has a list of points", 0.5 * (1.0 - 0.8**seen.list_items)))
    if seen.questions > 1:
        add(("asks several questions", min(0.75, 0.25 * (seen.questions - 1))))
    if seen.input_tokens > 1_000:
        add((f"about {seen.input_tokens} tokens of context", min(1.5, 0.2 * math.log2(seen.input_tokens / 1_000))))
    if seen.user_turns > 1:
        add((f"turn {seen.user_turns} of a conversation", min(0.6, 0.12 * math.log2(seen.user_turns))))
    if seen.tools:
        add((f"offers {seen.tools} tools", min(1.0, 0.2 + 0.16 * math.log2(seen.tools))))
    if seen.tool_turns:
        add((f"{seen.tool_turns} steps with tools so far", min(2.2, 0.45 * math.log2(1 + seen.tool_turns))))
    if seen.attachments:
        add(("has attachments", 0.3))
    if seen.max_output >= 4_000:
        add(("allows a long answer", 0.3))
    elif 0 < seen.max_output <= 32:
        add(("wants a very short answer", -0.6))
    effort = EFFORT_TERMS.get(seen.effort)
    if effort is not None:
        add((f"reasoning effort {seen.effort} asked for", effort))
    return terms


def judge_intent(seen: Features) -> tuple[str, float]:
    """The task with most evidence, and how sure that is (0.05 to 0.95, from the margin over the next)."""
    if seen.forced:
        return "tool-calling", 0.95
    if seen.last_is_tool or (seen.tools and seen.tool_turns):
        return "tool-calling", 0.9
    if seen.tools:
        # Offered, but whether one will be called is the model's to say.
        return "tool-calling", 0.7
    evidence = intent_evidence(seen)
    if _is_vague(seen, evidence):
        return "ambiguity", 0.3
    ranked = sorted(evidence.items(), key=lambda item: (-item[1], item[0]))
    (best, most), (_, second) = ranked[0], ranked[1] if len(ranked) > 1 else ("", 0.0)
    confidence = (most - 0.6 * second) / (most + 0.6)
    return best, max(0.05, min(0.95, confidence))


def intent_evidence(seen: Features) -> dict[str, float]:
    """Evidence for each intent that has any; ``chat`` always has a little."""
    found = {"chat": CHAT_PRIOR}

    def add(intent: str, amount: float) -> None:
        found[intent] = found.get(intent, 0.0) + amount

    for family, count in seen.families.items():
        entry = EVIDENCE.get(family)
        if entry:
            add(entry[0], entry[1] * min(3, count))
    if seen.opening:
        add(EVIDENCE[seen.opening][0], OPENING_EVIDENCE)
    for family in _SYSTEM_TASKS:
        count = seen.system.get(family, 0)
        if count:
            add(EVIDENCE[family][0], 0.8 * EVIDENCE[family][1] * min(3, count))
    if seen.code_blocks or seen.code_lines > 2:
        add("code", 2.0)
    if seen.symbols:
        add("maths", min(2.0, 0.4 * seen.symbols))
    if seen.numbers > 1 and "maths" in seen.families:
        add("maths", 1.0)
    if seen.structured:
        add("extraction", 0.8)
    if 0 < seen.max_output <= 16:
        add("intent-classification", 0.8)
    return found


def _is_vague(seen: Features, evidence: dict[str, float]) -> bool:
    """A few words that point at nothing: "fix it", "help me with this", or no words at all, at the start of a talk."""
    if seen.user_turns > 1 or seen.attachments or seen.code_blocks or seen.system or seen.words > 8:
        return False
    if seen.words == 0 and not seen.numbers:
        return True
    vague = seen.families.get("vague", 0)
    telling = seen.words - vague - seen.families.get("filler", 0)
    return vague > 0 and telling <= 1 and len(evidence) == 1


def _weight(term: tuple[str, float]) -> float:
    return abs(term[1])
