"""What is to happen with a request."""

from typing import Any

import pytest
from support_routing import ask, policy, pool, refuse, rule, snapshot, tier, understood, use

from ralb.v1 import snapshot_pb2 as pb
from ralb_api.errors import ClientError
from ralb_extproc.plan import close_names, needed, plan
from ralb_extproc.table import RoutingTable
from ralb_extproc.types import Api, Candidate, Plan, Request

TIERS = (
    tier("low", 1, "small", fallback_tiers=["ns/mid", "ns/high"], output_cap=500, reasoning_effort="Low"),
    tier("mid", 2, "medium", fallback_tiers=["ns/high"]),
    tier("high", 3, "big"),
)
POOLS = (pool("small", "s"), pool("medium", "m"), pool("big", "b"))
MAIN = policy(
    "main",
    use("mid"),
    rule("banned", refuse(403, "No poems."), intents=["creative"]),
    rule("easy", use("low"), complexity_max=0.35),
    rule("hard", use("high", output_cap=9000, reasoning_effort="high"), complexity_min=0.7),
)


def table(*parts: pb.Pool | pb.Tier | pb.Policy) -> RoutingTable:
    return RoutingTable.of(snapshot(*(parts or (*POOLS, *TIERS, MAIN))))


def decide(request: Request | None = None, *, on: RoutingTable | None = None, **understanding: Any) -> Plan:
    return plan(on or table(), request or ask(), understood(**understanding))


def refused(request: Request | None = None, *, on: RoutingTable | None = None, **understanding: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        decide(request, on=on, **understanding)
    return caught.value


def pools_of(found: Plan) -> list[str]:
    return [candidate.pool.removeprefix("ns/") for candidate in found.candidates]


class TestRules:
    def test_the_first_rule_that_holds_is_used(self) -> None:
        found = decide(complexity=0.2)
        assert (found.policy, found.rule, found.tier, found.tier_name) == ("ns/main", "easy", "ns/low", "low")
        assert pools_of(found) == ["small", "medium", "big"]

    def test_else_the_default(self) -> None:
        found = decide(complexity=0.5)
        assert (found.rule, found.tier_name) == ("default", "mid")

    def test_a_policy_can_refuse(self) -> None:
        error = refused(intent="creative", complexity=0.2)
        assert (error.status, error.code, error.message) == (403, "rejected_by_policy", "No poems.")

    def test_the_rules_options_go_over_the_tiers(self) -> None:
        found = decide(complexity=0.9)
        assert (found.output_cap, found.reasoning_effort) == (9000, "high")
        found = decide(complexity=0.1)
        assert (found.output_cap, found.reasoning_effort) == (500, "low")
        found = decide(complexity=0.5)
        assert (found.output_cap, found.reasoning_effort) == (0, "")

    def test_the_first_policy_that_owns_the_request_has_it(self) -> None:
        special = policy("special", use("high"), hostnames=["vip.example.com"])
        on = table(*POOLS, *TIERS, special, MAIN)
        assert decide(ask(host="vip.example.com"), on=on).policy == "ns/special"
        assert decide(ask(host="api.example.com"), on=on).policy == "ns/main"

    def test_usage_is_injected_when_the_policy_says_so(self) -> None:
        inject = policy("main", use("mid"), stream_usage=pb.STREAM_USAGE_INJECT)
        assert decide(on=table(*POOLS, *TIERS, inject)).inject_usage
        assert not decide().inject_usage

    def test_a_policy_may_take_over_a_real_name(self) -> None:
        guard = policy("guard", refuse(429), models=["b"])
        on = table(*POOLS, *TIERS, guard)
        assert refused(ask("b"), on=on).status == 429
        assert pools_of(decide(ask("s"), on=on)) == ["small"]


class TestConcreteNames:
    def test_the_models_own_pools(self) -> None:
        on = table(pool("a", "llama"), pool("b", "llama-awq", aliases=["llama"]), pool("c", "other"))
        found = decide(ask("llama"), on=on)
        assert found.candidates == (
            Candidate("ns/a", "llama", "", 0, 1, dynamic=True),
            Candidate("ns/b", "llama-awq", "", 0, 1, dynamic=True),
        )
        assert (found.policy, found.rule, found.tier, found.tier_name) == ("", "", "", "")

    def test_an_adapter_keeps_its_name(self) -> None:
        on = table(pool("a", "llama", adapters=["sql-lora"]))
        assert decide(ask("sql-lora"), on=on).candidates[0].model == "sql-lora"

    def test_unknown_names_are_told_the_close_ones(self) -> None:
        on = table(*(pool(f"p{i}", f"unlike-{i}") for i in range(30)), pool("x", "llama-3.1-8b"))
        error = refused(ask("llama-3-8b"), on=on)
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert "Names close to it: llama-3.1-8b," in error.message
        assert error.message.count("unlike-") == 9

    def test_a_virtual_name_elsewhere_says_so(self) -> None:
        on = table(*POOLS, *TIERS, policy("p", use("mid"), hostnames=["a.com"]))
        error = refused(ask(host="b.com"), on=on)
        assert error.code == "model_not_found"
        assert "host" in error.message

    def test_no_models_at_all(self) -> None:
        assert "No models are configured" in refused(on=RoutingTable.of(pb.Snapshot())).message

    def test_a_long_wrong_name_costs_little_and_is_survived(self) -> None:
        assert close_names("x" * 256, []) == []
        assert len(close_names("x" * 256, [f"m{i}" for i in range(300)])) == 10


class TestSpill:
    POOLS = (pool("a"), pool("b"), pool("tiny", context_window=8), pool("away", ready=False))
    EASY = tier("easy", 1, "a", spill_tiers=["ns/mid", "ns/hard"])
    MID = tier("mid", 2, "tiny", "away")
    HARD = tier("hard", 3, "b")

    def spill_of(self, request: Request | None = None) -> list[str]:
        on = table(*self.POOLS, self.EASY, self.MID, self.HARD, policy("p", use("easy")))
        found = decide(request, on=on)
        assert pools_of(found) == ["a"]
        assert found.skipped == ()
        return [candidate.pool for candidate in found.spill]

    def test_pools_that_can_serve_are_there(self) -> None:
        assert self.spill_of(ask(input_tokens=5)) == ["ns/tiny", "ns/b"]
        assert self.spill_of(ask(input_tokens=50)) == ["ns/b"]

    def test_the_client_limits_it_too(self) -> None:
        assert self.spill_of(ask(input_tokens=5, headers={"x-ralb-max-tier": "2"})) == ["ns/tiny"]
        assert self.spill_of(ask(headers={"x-ralb-max-tier": "easy"})) == []

    def test_a_tier_one_spills_over_to_is_one_the_policy_reaches(self) -> None:
        assert self.spill_of(ask(headers={"x-ralb-max-tier": "hard"})) == ["ns/b"]

    def test_a_lowered_request_spills_as_the_lower_tier_does(self) -> None:
        top = tier("top", 4, "b", spill_tiers=["ns/hard"])
        on = table(
            *self.POOLS,
            self.EASY,
            self.MID,
            self.HARD,
            top,
            policy("p", use("top"), rule("e", use("easy"), tools=True)),
        )
        found = decide(ask(input_tokens=5, headers={"x-ralb-max-tier": "1"}), on=on)
        assert (found.tier, found.spill) == ("ns/easy", ())


class TestMaxTier:
    @pytest.mark.parametrize("said", ["mid", "2", " mid ", "ns/mid"])
    def test_it_lowers_the_tier(self, said: str) -> None:
        found = decide(ask(headers={"x-ralb-max-tier": said}), complexity=0.9)
        assert (found.rule, found.tier_name) == ("hard", "mid")
        assert pools_of(found) == ["medium"]
        assert ("ns/big", "above x-ralb-max-tier") in found.skipped
        assert found.output_cap == 9000

    def test_it_never_raises_it(self) -> None:
        found = decide(ask(headers={"x-ralb-max-tier": "high"}), complexity=0.1)
        assert found.tier_name == "low"
        assert pools_of(found) == ["small", "medium", "big"]

    def test_a_level_between_tiers_is_the_one_below(self) -> None:
        on = table(
            *POOLS, tier("low", 10, "small"), tier("high", 30, "big"), policy("p", use("high"), rule("r", use("low")))
        )
        assert decide(ask(headers={"x-ralb-max-tier": "20"}), on=on).tier_name == "low"

    def test_only_tiers_the_policy_reaches(self) -> None:
        narrow = policy("narrow", use("high"))
        error = refused(ask(headers={"x-ralb-max-tier": "1"}), on=table(*POOLS, *TIERS, narrow))
        assert (error.status, error.param) == (400, "x-ralb-max-tier")
        assert "high (level 3)" in error.message

    @pytest.mark.parametrize("said", ["", "huge", "-1", "1.5", "²", "9" * 5000])
    def test_nonsense_is_refused_with_the_names_there_are(self, said: str) -> None:
        error = refused(ask(headers={"x-ralb-max-tier": said}))
        assert (error.status, error.code) == (400, "invalid_request")
        assert "high, low, mid" in error.message
        assert len(error.message) < 200

    def test_a_model_asked_for_by_name_has_no_tier(self) -> None:
        assert pools_of(decide(ask("b", headers={"x-ralb-max-tier": "low"}))) == ["big"]


class TestFilters:
    def test_pools_without_ready_endpoints_are_skipped(self) -> None:
        on = table(pool("small", "s", ready=False), *POOLS[1:], *TIERS, MAIN)
        found = decide(on=on, complexity=0.1)
        assert pools_of(found) == ["medium", "big"]
        assert found.skipped == (("ns/small", "no ready endpoint"),)
        assert found.tier_name == "low"

    def test_services_are_always_ready(self) -> None:
        on = table(pool("small", "s", service=True), *POOLS[1:], *TIERS, MAIN)
        assert pools_of(decide(on=on, complexity=0.1))[0] == "small"

    def test_the_window_must_hold_prompt_and_answer(self) -> None:
        on = table(pool("small", "s", context_window=1000), *POOLS[1:], *TIERS, MAIN)
        fits = ask(input_tokens=500, max_output=500)
        assert pools_of(decide(fits, on=on, complexity=0.1))[0] == "small"
        too_long = ask(input_tokens=501, max_output=500)
        found = decide(too_long, on=on, complexity=0.1)
        assert found.skipped == (("ns/small", "context window too small"),)

    def test_an_answer_limit_above_the_cap_counts_as_the_cap(self) -> None:
        on = table(pool("small", "s", context_window=1000), *POOLS[1:], *TIERS, MAIN)
        assert pools_of(decide(ask(input_tokens=400, max_output=100_000), on=on, complexity=0.1))[0] == "small"

    def test_a_batch_needs_room_for_its_longest_prompt_only(self) -> None:
        on = table(pool("e", "embed", context_window=512))
        batch = ask("embed", api=Api.EMBEDDINGS, input_tokens=5000, longest_prompt=500)
        assert pools_of(decide(batch, on=on)) == ["e"]

    @pytest.mark.parametrize(
        ("fields", "lacks"),
        [
            ({"tools": ("f",)}, "tools"),
            ({"images": 1}, "vision"),
            ({"audio": 1}, "audio"),
            ({"structured": True}, "structuredoutput"),
            ({"api": Api.EMBEDDINGS}, "embeddings"),
            ({"api": Api.COMPLETIONS}, "completions"),
        ],
    )
    def test_abilities(self, fields: dict[str, Any], lacks: str) -> None:
        on = table(
            pool("plain", "p", capabilities=["Chat"]),
            pool(
                "all",
                "a",
                capabilities=["Chat", "Completions", "Embeddings", "Tools", "Vision", "Audio", "StructuredOutput"],
            ),
            pool("silent", "x"),
            tier("t", 1, "plain", "all", "silent"),
            policy("p", use("t")),
        )
        found = decide(ask(**fields), on=on)
        assert pools_of(found) == ["all", "silent"]
        assert found.skipped == (("ns/plain", f"lacks {lacks}"),)
        assert refused(ask("p", **fields), on=on).code == "unsupported_by_model"

    def test_abilities_without_an_api_among_them_say_nothing_about_apis(self) -> None:
        on = table(pool("a", "m", capabilities=["Tools"]))
        assert pools_of(decide(ask("m", tools=("f",)), on=on)) == ["a"]
        assert pools_of(decide(ask("m", api=Api.COMPLETIONS), on=on)) == ["a"]

    def test_tools_that_must_not_be_used_need_no_ability(self) -> None:
        assert needed(ask(tools=("f",), tool_choice="none")) == ()
        assert needed(ask(tools=("f",), tool_choice="auto")) == ("tools",)


class TestNobody:
    def test_not_ready_can_be_tried_again(self) -> None:
        on = table(pool("a", "m", ready=False), pool("b", "m", context_window=5))
        error = refused(ask("m"), on=on)
        assert (error.status, error.code, error.headers) == (503, "no_endpoint", (("retry-after", "1"),))

    def test_too_long_names_estimate_and_largest_window(self) -> None:
        on = table(pool("a", "m", context_window=1000), pool("b", "m", context_window=2000, ready=False))
        error = refused(ask("m", input_tokens=3000, max_output=500), on=on)
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
        for figure in ("3500", "3000", "500", "2000"):
            assert figure in error.message

    def test_the_window_of_a_pool_that_lacks_the_ability_does_not_count(self) -> None:
        on = table(
            pool("a", "m", context_window=1000, capabilities=["Chat", "Vision"]),
            pool("b", "m", context_window=9000, capabilities=["Chat"]),
        )
        error = refused(ask("m", input_tokens=3000, images=1), on=on)
        assert error.code == "context_length_exceeded"
        assert "1000" in error.message

    def test_unsupported_says_what(self) -> None:
        on = table(pool("a", "m", capabilities=["Chat"], ready=False))
        error = refused(ask("m", images=1), on=on)
        assert (error.status, error.code) == (400, "unsupported_by_model")
        assert "vision" in error.message

    def test_a_tier_without_pools(self) -> None:
        on = table(*POOLS, tier("t", 1), policy("p", use("t")))
        assert refused(on=on).code == "no_endpoint"


def provider(name: str, *apis: str, blocked: str = "", **fields: Any) -> pb.Pool:
    found = pool(name, service=True, **fields)
    found.apis.extend(apis)
    found.blocked = blocked
    return found


class TestProviders:
    """Pools whose servers do not speak every API, and pools to which nothing may be sent."""

    OPENAI = ("chat", "completions", "embeddings", "responses")

    @pytest.mark.parametrize("api", list(Api))
    def test_only_pools_that_speak_the_api_are_used(self, api: Api) -> None:
        pools = (provider("a", "messages"), provider("o", *self.OPENAI), pool("p"))
        found = decide(ask(api=api), on=table(*pools, tier("t", 1, "a", "o", "p"), policy("x", use("t"))))
        able, unable = ("a", "o") if api is Api.MESSAGES else ("o", "a")
        assert pools_of(found) == [able, "p"]
        ((skipped, reason),) = found.skipped
        assert skipped == f"ns/{unable}"
        words = {Api.CHAT: "chat completions"}.get(api, api.rpartition("/")[2])
        assert reason == f"lacks the {words} API"

    def test_when_nobody_speaks_the_api_the_client_is_told(self) -> None:
        on = table(provider("o", *self.OPENAI), tier("t", 1, "o"), policy("x", use("t")))
        error = refused(ask(api=Api.MESSAGES), on=on)
        assert (error.status, error.code) == (400, "unsupported_by_model")
        assert error.message == "'auto' does not support the messages API."

    def test_the_providers_apis_count_before_what_its_model_can_do(self) -> None:
        on = table(provider("a", "messages", capabilities=["Embeddings"]))
        assert "the embeddings API" in refused(ask("a", api=Api.EMBEDDINGS), on=on).message

    def test_a_blocked_pool_is_skipped_with_its_reason(self) -> None:
        on = table(
            provider("o", blocked="its key is missing"), pool("p"), tier("t", 1, "o", "p"), policy("x", use("t"))
        )
        found = decide(on=on)
        assert (pools_of(found), found.skipped) == (["p"], (("ns/o", "its key is missing"),))

    def test_when_all_are_blocked_time_may_mend_it(self) -> None:
        on = table(provider("o", blocked="its key is missing"), tier("t", 1, "o"), policy("x", use("t")))
        error = refused(on=on)
        assert (error.status, error.code) == (503, "no_endpoint")
        assert "key" not in error.message

    def test_a_blocked_pool_with_endpoints_is_blocked(self) -> None:
        one = pool("p")
        one.blocked = "no"
        assert refused(ask("p"), on=table(one)).code == "no_endpoint"

    def test_apis_of_a_newer_operator_are_none_of_ours(self) -> None:
        on = table(
            provider("a", "telepathy"),
            provider("o", "telepathy", "chat"),
            tier("t", 1, "a", "o"),
            policy("x", use("t")),
        )
        assert pools_of(decide(on=on)) == ["o"]
