"""Warnings about valid objects: what is allowed but probably not meant. Looks at one object at a time."""

from ralb_api.intents import INTENTS
from ralb_api.objects import RoutingPolicy, When
from ralb_api.objects.common import Object
from ralb_operator.explain_errors import Finding, close_to, listed, shown


def doubts(value: Object) -> list[Finding]:
    """What is suspicious about a valid object."""
    return [*_unknown_intents(value), *_unreachable_rules(value)] if isinstance(value, RoutingPolicy) else []


def _unknown_intents(policy: RoutingPolicy) -> list[Finding]:
    found = []
    for i, rule in enumerate(policy.spec.rules):
        for j, intent in enumerate(rule.when.intents):
            if intent.lower() not in INTENTS:  # matched without regard to case
                near = close_to(intent, INTENTS)
                hint = f"did you mean {near}? known: {listed(INTENTS)}" if near else f"known: {listed(INTENTS)}"
                message = f"{shown(intent)} is not an intent the processor tells apart; it never matches"
                found.append(Finding(f"spec.rules[{i}].when.intents[{j}]", message, hint))
    return found


def _unreachable_rules(policy: RoutingPolicy) -> list[Finding]:
    rules = policy.spec.rules
    for i, rule in enumerate(rules[:-1]):
        if rule.when == When():
            message = f"rule {rule.name} always holds, so the {len(rules) - i - 1} after it are never reached"
            return [
                Finding(f"spec.rules[{i}].when", message, "add conditions, or move it to the end or into spec.default")
            ]
    return []
