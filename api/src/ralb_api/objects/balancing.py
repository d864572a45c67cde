"""How work is spread over a pool's pods: the strategy and its settings, caps and limits."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from ralb_api.headers import CREDENTIALS
from ralb_api.objects.common import Constraint, Duration, HeaderName, Spec, duration_within
from ralb_api.objects.health import Health


class Strategy(StrEnum):
    """By what pods are compared."""

    REASONING_AWARE = "ReasoningAware"
    WEIGHTED_ROUND_ROBIN = "WeightedRoundRobin"
    ROUND_ROBIN = "RoundRobin"
    LEAST_REQUEST = "LeastRequest"
    POWER_OF_TWO = "PowerOfTwo"
    RING_HASH = "RingHash"
    MAGLEV = "Maglev"
    PREFIX_AWARE = "PrefixAware"
    KV_AWARE = "KVAware"
    SESSION_AFFINITY = "SessionAffinity"


class CircuitBreaker(Spec):
    """Limits that stop a pool from being buried."""

    max_requests: int = Field(
        default=100_000,
        ge=1,
        le=4_000_000,
        description="maxRequests is how many requests one gateway may have open to the pool; those that come to it by "
        "failover from another model are counted apart. Defaults to 100000.",
    )
    retry_budget_percent: int = Field(
        default=50,
        ge=0,
        le=100,
        description="retryBudgetPercent is the share of open requests that may be retries. Defaults to 50.",
    )
    min_retries: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="minRetries is how many retries may run at once however few requests are open. Defaults to 64.",
    )


_HASHING = [Strategy.RING_HASH.value, Strategy.MAGLEV.value]
_AFFINE = [Strategy.REASONING_AWARE.value, Strategy.SESSION_AFFINITY.value]


class Hash(Spec):
    """What is hashed, and how far a pod's load may grow by it."""

    constraints: ClassVar = (
        Constraint(
            cel=f"!has(self.header) || !(self.header.lowerAscii() in {list(CREDENTIALS)})",
            breach=lambda hashed: "" if hashed.header in CREDENTIALS else None,
            message="header must not be one that carries credentials",
            hint="name one with the id of a user or a conversation, or leave header out",
            field="header",
        ),
    )

    header: HeaderName | None = Field(
        default=None,
        description="header is the request header whose value is the key; upper and lower case are the same. Absent, or "
        "where a request lacks it, the key is the request's session, and without one the begin of its prompt.",
    )
    bounded_load_percent: int = Field(
        default=125,
        ge=100,
        le=1000,
        description="boundedLoadPercent is how many requests a pod may have at most for hashing to choose it, in percent "
        "of the pool's mean per pod; beyond it the next pod in the key's order is taken. Defaults to 125.",
    )
    max_key_share_percent: int = Field(
        default=25,
        ge=1,
        le=100,
        description="maxKeySharePercent is the largest share of the pool's requests of the last minute that one key may "
        "bring to one pod; a key with more is spread over as many pods as it takes. At 100 none is. "
        "Defaults to 25.",
    )


class Affinity(Spec):
    """How long a conversation is remembered."""

    constraints: ClassVar = (
        duration_within("ttl", "10s", "24h", "a pod's cache rarely holds a conversation longer than some minutes"),
    )

    ttl: Duration = Field(
        default="10m",
        description="ttl is how long after its last request a session's pod is remembered, as a duration such as 10m, "
        "from 10s to 24h. Defaults to 10m.",
    )


def _misplaced(balancing: "Balancing", said: Spec, default: Spec, strategies: list[str]) -> str | None:
    return None if said == default or balancing.strategy in strategies else f"it is {balancing.strategy}"


class Balancing(Spec):
    """How work is spread over the pool's pods."""

    constraints: ClassVar = (
        duration_within("slow_start", "0s", "1h", "a new pod gets its full share within minutes; 30s is a good value"),
        duration_within("drain", "30s", "120s", "give it the pods' terminationGracePeriodSeconds; 60s is a good value"),
        Constraint(
            cel=f"!has(self.hash) || self.strategy in {_HASHING} || (!has(self.hash.header)"
            " && self.hash.boundedLoadPercent == 125 && self.hash.maxKeySharePercent == 25)",
            breach=lambda said: _misplaced(said, said.hash, Hash(), _HASHING),
            message="hash is for the strategies RingHash and Maglev",
            hint="set strategy to one of them, or remove hash",
            field="hash",
        ),
        Constraint(
            cel=f"!has(self.affinity) || self.strategy in {_AFFINE} || self.affinity.ttl == '10m'",
            breach=lambda said: _misplaced(said, said.affinity, Affinity(), _AFFINE),
            message="affinity is for the strategies ReasoningAware and SessionAffinity",
            hint="set strategy to one of them, or remove affinity",
            field="affinity",
        ),
    )

    strategy: Strategy = Field(
        default=Strategy.REASONING_AWARE,
        description="strategy says by what pods are compared: ReasoningAware (predicted time to the answer), "
        "WeightedRoundRobin (turns, by measured speed and room), RoundRobin, LeastRequest, PowerOfTwo (the better of two "
        "random pods), RingHash and Maglev (the same pod for the same key), PrefixAware (who holds most of the prompt), "
        "KVAware (who has most room for it) or SessionAffinity (who had the conversation before). Defaults to "
        "ReasoningAware. RoundRobin, LeastRequest, RingHash and Maglev run in Envoy, and so does what comes nearest to "
        "the strategy where the replicas are behind a service or a provider.",
    )
    hash: Hash = Field(
        default_factory=Hash,
        description="hash says what RingHash and Maglev hash, and how far they may load one pod; it is for them only. "
        "The defaults of its fields apply when absent.",
    )
    affinity: Affinity = Field(
        default_factory=Affinity,
        description="affinity says how long ReasoningAware and SessionAffinity remember who had a conversation; it is "
        "for them only. The defaults of its fields apply when absent.",
    )
    concurrency_per_replica: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="concurrencyPerReplica is how many requests one pod should have at once; pods at the cap are "
        "chosen only when all are. 0, the default, means that only the cap learned from queues and KV caches counts.",
    )
    slow_start: Duration = Field(
        default="30s",
        description="slowStart is the longest a new or restarted pod may take to get its full share, as a duration such as "
        "30s, at most 1h; it gets there sooner when it answers as fast and from its cache as often as its peers. "
        "Defaults to 30s.",
    )
    drain: Duration = Field(
        default="60s",
        description="drain is how long the requests of a pod that is being deleted are still waited for, as a duration "
        "such as 60s, from 30s to 120s; it gets no new ones. Defaults to 60s.",
    )
    health: Health = Field(
        default_factory=Health,
        description="health says when a pod counts as unwell, and how many may be held back for it. The defaults of its "
        "fields apply when absent.",
    )
    circuit_breaker: CircuitBreaker = Field(
        default_factory=CircuitBreaker,
        description="circuitBreaker limits open requests and retries towards the pool. The defaults of its fields "
        "apply when absent.",
    )
