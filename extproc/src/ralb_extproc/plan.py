"""What is to happen with a request: which policy owns it, which rule holds, which pools may serve it and in what order.

Pure: the same table, request and understanding give the same plan, whatever the pods do; pods are ``place``'s matter. May not
enter: I/O, clocks, chance. A client can only narrow what a policy grants: ``x-ralb-max-tier`` chooses among the tiers the
policy reaches anyway.
"""

from collections.abc import Sequence

from ralb.v1 import snapshot_pb2 as pb
from ralb_api import headers as names
from ralb_api.errors import ClientError, Code
from ralb_extproc.table import Action, Facts, PolicyEntry, RoutingTable
from ralb_extproc.types import Api, Candidate, Plan, Request, Understanding

_NO_ENDPOINT = "no ready endpoint"
_WINDOW = "context window too small"
_ABOVE_MAX = "above x-ralb-max-tier"
_MAX_CLOSE_NAMES = 10
# Bounds what a wrong name can cost, however many names there are.
_MAX_NAMES_COMPARED = 200

_API_NEEDS = {
    Api.CHAT: "chat",
    Api.RESPONSES: "chat",
    Api.MESSAGES: "chat",
    Api.COMPLETIONS: "completions",
    Api.EMBEDDINGS: "embeddings",
}
# In words, for clients and records.
_API_NAMES = {
    Api.CHAT: "the chat completions API",
    Api.RESPONSES: "the responses API",
    Api.MESSAGES: "the messages API",
    Api.COMPLETIONS: "the completions API",
    Api.EMBEDDINGS: "the embeddings API",
}


def plan(table: RoutingTable, request: Request, understanding: Understanding) -> Plan:
    """Decide who may serve a request.

    A policy that claims the model name for this host, path and headers comes first, so that a policy can also take over a
    model's real name; otherwise the name must be a model some pool serves.

    Raises:
        ClientError: 404 ``model_not_found``; the policy's own refusal (``rejected_by_policy``); 400
            ``context_length_exceeded`` or ``unsupported_by_model`` when every pool lacks the room or an ability; 503
            ``no_endpoint`` when a pool would do but has nobody ready; 400 ``invalid_request`` for a wrong max tier.
    """
    for policy in table.by_model.get(request.model, ()):
        if policy.claim.owns(request):
            return _by_policy(table, policy, request, understanding)
    servers = table.concrete.get(request.model)
    if servers is None:
        raise _not_found(table, request)
    wanted = [Candidate(pool, model, "", 0, 1, dynamic=True) for pool, model in servers]
    candidates, skipped = _filter(table, wanted, request, request.max_output)
    return Plan(policy="", rule="", tier="", tier_name="", candidates=candidates, skipped=skipped)


def _by_policy(table: RoutingTable, policy: PolicyEntry, request: Request, understanding: Understanding) -> Plan:
    name, action = "default", policy.default
    for rule in policy.rules:
        if rule.condition.holds(request, understanding):
            name, action = rule.name, rule.action
            break
    if action.refusal is not None:
        refusal = action.refusal
        raise ClientError(refusal.status, refusal.code or Code.REJECTED_BY_POLICY, refusal.message)
    tier = table.tiers[action.tier]
    wanted, spill = table.tier_candidates[action.tier], table.tier_spill[action.tier]
    above: tuple[tuple[str, str], ...] = ()
    limit = request.headers.get(names.MAX_TIER)
    if limit is not None:
        tier, wanted, spill, above = _lowered(table, policy, tier, limit)
    output_cap = action.output_cap or tier.output_cap
    max_output = min(request.max_output, output_cap) if output_cap else request.max_output
    candidates, skipped = _filter(table, wanted, request, max_output)
    return Plan(
        policy=policy.id,
        rule=name,
        tier=tier.id,
        tier_name=tier.name,
        candidates=candidates,
        output_cap=output_cap,
        reasoning_effort=_effort(action, tier),
        inject_usage=policy.inject_usage,
        skipped=(*skipped, *above),
        spill=_able(table, spill, request, max_output) if spill else (),
    )


def _effort(action: Action, tier: pb.Tier) -> str:
    return action.reasoning_effort or tier.reasoning_effort.lower()


def _lowered(
    table: RoutingTable, policy: PolicyEntry, tier: pb.Tier, said: str
) -> tuple[pb.Tier, tuple[Candidate, ...], tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """The tier to use under the client's ``x-ralb-max-tier``, its candidates and spill not above it, and those that are."""
    limit = _limit(table, policy, said.strip())
    if tier.level > limit:
        lower = next((table.tiers[other] for other in policy.tiers if table.tiers[other].level <= limit), None)
        if lower is None:
            lowest = table.tiers[policy.tiers[-1]]
            raise _bad_limit(
                f"{names.MAX_TIER} allows no tier of this policy; the lowest is {lowest.name} (level {lowest.level})."
            )
        tier = lower
    wanted = table.tier_candidates[tier.id]
    allowed = tuple(candidate for candidate in wanted if table.tiers[candidate.tier].level <= limit)
    spill = tuple(candidate for candidate in table.tier_spill[tier.id] if table.tiers[candidate.tier].level <= limit)
    above = tuple((c.pool, _ABOVE_MAX) for c in wanted if table.tiers[c.tier].level > limit)
    return tier, allowed, spill, above


def _limit(table: RoutingTable, policy: PolicyEntry, said: str) -> int:
    """The level a client means by a number, or by the name or id of a tier the policy reaches."""
    if said.isascii() and said.isdigit() and len(said) <= 9:
        return int(said)
    for other in policy.tiers:
        if said in (other, table.tiers[other].name):
            return table.tiers[other].level
    known = ", ".join(sorted({table.tiers[other].name for other in policy.tiers})[:_MAX_CLOSE_NAMES])
    raise _bad_limit(f"{names.MAX_TIER} must be a level number or one of the tiers: {known}.")


def _bad_limit(message: str) -> ClientError:
    return ClientError(400, Code.INVALID_REQUEST, message, names.MAX_TIER)


def _filter(
    table: RoutingTable, wanted: Sequence[Candidate], request: Request, max_output: int
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...]]:
    """The candidates that can serve the request, and why the others can not; ClientError when none can."""
    needs = needed(request)
    api = request.api
    room = (request.longest_prompt or request.input_tokens) + max_output
    usable: list[Candidate] = []
    skipped: list[tuple[str, str]] = []
    for candidate in wanted:
        facts = table.facts[candidate.pool]
        reason = _obstacle(facts, needs, api, room)
        if reason:
            skipped.append((candidate.pool, reason))
        else:
            usable.append(candidate)
    if not usable:
        raise _nobody(table, wanted, request, needs, api, room)
    return tuple(usable), tuple(skipped)


def _able(table: RoutingTable, wanted: Sequence[Candidate], request: Request, max_output: int) -> tuple[Candidate, ...]:
    """Those of the candidates that can serve the request; silently, for nobody waits for them."""
    needs, room = needed(request), (request.longest_prompt or request.input_tokens) + max_output
    return tuple(each for each in wanted if not _obstacle(table.facts[each.pool], needs, request.api, room))


def needed(request: Request) -> tuple[str, ...]:
    """Abilities, beyond the API itself, without which a model can not serve a request; in lower case."""
    needs: list[str] = []
    if request.tools and request.tool_choice != "none":
        needs.append("tools")
    if request.images:
        needs.append("vision")
    if request.audio:
        needs.append("audio")
    if request.structured:
        needs.append("structuredoutput")
    return tuple(needs)


def _obstacle(facts: Facts, needs: Sequence[str], api: Api, room: int) -> str:
    """Why a pool can not serve, "" when it can; inability first, for it lasts longest."""
    lacking = _lacking(facts, needs, api)
    if lacking:
        return f"lacks {lacking}"
    if facts.window and room > facts.window:
        return _WINDOW
    return "" if facts.ready else facts.blocked or _NO_ENDPOINT


def _lacking(facts: Facts, needs: Sequence[str], api: Api) -> str:
    if facts.apis is not None and api not in facts.apis:
        return _API_NAMES[api]
    if not facts.capabilities:
        return ""
    # A pool that lists only what its chat can do (Tools, Vision) has not said which APIs it serves.
    if facts.api_declared and _API_NEEDS[api] not in facts.capabilities:
        return _API_NEEDS[api]
    for need in needs:
        if need not in facts.capabilities:
            return need
    return ""


def _nobody(
    table: RoutingTable, wanted: Sequence[Candidate], request: Request, needs: Sequence[str], api: Api, room: int
) -> ClientError:
    """What to tell the client: what time may mend first, then what a shorter prompt would, then what nothing will."""
    facts = [table.facts[candidate.pool] for candidate in wanted]
    able = [fact for fact in facts if not _lacking(fact, needs, api)]
    if not wanted or any(not fact.window or room <= fact.window for fact in able):
        return ClientError(
            503,
            Code.NO_ENDPOINT,
            f"No server is ready for {request.model!r} at the moment; try again shortly.",
            headers=((names.RETRY_AFTER, "1"),),
        )
    if able:
        largest = max(fact.window for fact in able)
        prompt = request.longest_prompt or request.input_tokens
        return ClientError(
            400,
            Code.CONTEXT_LENGTH_EXCEEDED,
            f"The request needs about {room} tokens of context ({prompt} of prompt, by estimate, and {room - prompt} of "
            f"answer), but the largest context window that can serve {request.model!r} is {largest} tokens. Shorten the "
            "prompt or lower the answer limit.",
            "input" if request.api in (Api.EMBEDDINGS, Api.RESPONSES) else _prompt_field(request.api),
        )
    lacking = sorted({_lacking(fact, needs, api) for fact in facts})
    return ClientError(
        400, Code.UNSUPPORTED_BY_MODEL, f"{request.model!r} does not support {', '.join(lacking)}.", "model"
    )


def _prompt_field(api: Api) -> str:
    return "prompt" if api is Api.COMPLETIONS else "messages"


def _not_found(table: RoutingTable, request: Request) -> ClientError:
    if request.model in table.by_model:
        text = f"The model {request.model!r} is not offered at this host and path, or not with these headers."
    else:
        close = close_names(request.model, [info.id for info in table.models[:_MAX_NAMES_COMPARED]])
        hint = f" Names close to it: {', '.join(close)}." if close else " No models are configured."
        text = f"The model {request.model!r} does not exist.{hint}"
    return ClientError(404, Code.MODEL_NOT_FOUND, text, "model")


def close_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to 10 of the known names, those that share most pieces of three characters with ``name`` first."""
    wanted = _pieces(name)

    def likeness(other: str) -> float:
        pieces = _pieces(other)
        shared = len(wanted & pieces)
        return shared / (len(wanted) + len(pieces) - shared)

    return sorted(known, key=lambda other: (-likeness(other), other))[:_MAX_CLOSE_NAMES]


def _pieces(name: str) -> set[str]:
    padded = f"  {name[:64].lower()} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}
