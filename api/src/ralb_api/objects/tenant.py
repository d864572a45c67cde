"""Tenant: who is calling, and what they may have.

Trap: how a caller is told must be proof (a key, a signed token) or come from a proxy that is trusted by address; a header
that anybody can send tells nothing.
"""

import ipaddress
from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from ralb_api.objects.common import (
    Cidr,
    Claim,
    Constraint,
    HeaderName,
    HttpsUrl,
    LabelKey,
    LabelValue,
    Object,
    ObjectName,
    SecretKey,
    Spec,
    Visible,
    duplicates,
    exactly_one,
)


class ApiKeySecretRef(Spec):
    """A tenant's API key, in a Secret of the tenant's own namespace."""

    name: ObjectName = Field(description="name is a Secret in the tenant's own namespace.")
    key: SecretKey = Field(
        default="apiKey", description="key is where in the Secret the tenant's API key is. Defaults to apiKey."
    )


class JWTIdentification(Spec):
    """A claim of a token that an issuer signed."""

    issuer: HttpsUrl = Field(
        description="issuer is the https URL that a token's iss claim must have; the issuer's keys are found below it "
        "(OpenID Connect discovery).",
    )
    claim: Claim = Field(default="sub", description="claim is the claim that tells the tenant. Defaults to sub.")
    value: Visible = Field(description="value is what the claim must be for this tenant, compared exactly.")


def _is_range(text: str) -> bool:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    # As Kubernetes does: no IPv4 addresses in IPv6 clothes.
    return network.version == 4 or network.network_address.ipv4_mapped is None


def _proxies_breach(header: "HeaderIdentification") -> str | None:
    wrong = [text for text in header.trusted_proxies if not _is_range(text)]
    return f"{wrong[0]} is none" if wrong else None


class HeaderIdentification(Spec):
    """A header that a trusted proxy sets."""

    constraints: ClassVar = (
        Constraint(
            cel="self.trustedProxies.all(range, isCIDR(range))",
            breach=_proxies_breach,
            message="trustedProxies must be address ranges",
            hint="write them like 10.0.0.0/8 or fd00::/8",
            field="trustedProxies",
        ),
    )

    name: HeaderName = Field(description="name is the header that tells the tenant; upper and lower case are the same.")
    value: Visible = Field(description="value is what the header must be for this tenant, compared exactly.")
    trusted_proxies: tuple[Cidr, ...] = Field(
        min_length=1,
        max_length=16,
        description="trustedProxies are the address ranges of the proxies that set the header, such as 10.0.0.0/8. "
        "From any other address the header is ignored.",
    )


class Identification(Spec):
    """How a request is known to be the tenant's; exactly one."""

    constraints: ClassVar = (exactly_one("api_key_secret_ref", "jwt", "header"),)

    api_key_secret_ref: ApiKeySecretRef | None = Field(
        default=None,
        description="apiKeySecretRef knows the tenant by an API key that clients send as authorization: Bearer or "
        "x-api-key. Unset means another way is used; exactly one must be set.",
    )
    jwt: JWTIdentification | None = Field(
        default=None,
        description="jwt knows the tenant by a claim of the signed token that clients send as authorization: Bearer. "
        "Unset means another way is used; exactly one must be set.",
    )
    header: HeaderIdentification | None = Field(
        default=None,
        description="header knows the tenant by a header that a trusted proxy sets. Unset means another way is used; "
        "exactly one must be set.",
    )


class Priority(StrEnum):
    """Lanes of the queue, first to last."""

    CRITICAL = "Critical"
    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


class Limits(Spec):
    """Rates a tenant may not exceed."""

    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=100_000_000,
        description="requestsPerMinute is how many requests the tenant may send per minute; more get 429. Unset means "
        "no limit.",
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=100_000_000_000,
        description="tokensPerMinute is how many prompt and answer tokens the tenant may use per minute; more get "
        "429. Unset means no limit.",
    )


class BudgetPeriod(StrEnum):
    """After which time a budget starts anew."""

    HOUR = "Hour"
    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"


class BudgetAction(StrEnum):
    """What happens to requests over the budget."""

    REJECT = "Reject"
    CHEAPEST_TIER = "CheapestTier"


class Budget(Spec):
    """What may be used up in a period."""

    constraints: ClassVar = (
        Constraint(
            cel="has(self.tokens) || has(self.dollars)",
            breach=lambda budget: "neither is" if budget.tokens is None and budget.dollars is None else None,
            message="tokens or dollars must be set",
            hint="a budget needs an amount: set tokens, dollars or both",
        ),
    )

    period: BudgetPeriod = Field(
        description="period is the calendar period in UTC after which the budget starts anew: Hour, Day, Week or "
        "Month. One budget per period.",
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000_000_000,
        description="tokens is how many prompt and answer tokens may be used in the period. Unset means no limit.",
    )
    dollars: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000_000,
        description="dollars is how many US dollars may be spent in the period, by the pools' cost. Unset means no "
        "limit.",
    )
    when_exceeded: BudgetAction = Field(
        default=BudgetAction.REJECT,
        description="whenExceeded is Reject (429 until the period ends) or CheapestTier (the lowest tier the tenant "
        "may use). Defaults to Reject.",
    )


class Compliance(Spec):
    """Where a tenant's data may go."""

    pool_labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict,
        max_length=16,
        description="poolLabels are labels that a ModelPool must all carry (its spec.labels) to serve this tenant, "
        "such as region: eu. Empty, the default, means that any pool may.",
    )


def _periods_breach(spec: "TenantSpec") -> str | None:
    again = duplicates(budget.period for budget in spec.budgets)
    return f"{again[0]} has more than one" if again else None


class TenantSpec(Spec):
    """What the user asks for."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.budgets) || self.budgets.all(a, self.budgets.exists_one(b, a.period == b.period))",
            breach=_periods_breach,
            message="each period may have one budget",
            hint="keep one budget per period, with tokens and dollars in it",
            field="budgets",
        ),
    )

    identification: Identification = Field(
        description="identification says how a request is known to be the tenant's: exactly one of apiKeySecretRef, "
        "jwt and header.",
    )
    priority: Priority = Field(
        default=Priority.NORMAL,
        description="priority is the lane in which the tenant's requests wait: Critical, High, Normal or Low. A lane "
        "is served before those after it, and shed after them. Defaults to Normal.",
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="weight is the tenant's share among the tenants of its lane when there is not enough for all. "
        "Defaults to 1.",
    )
    limits: Limits = Field(
        default_factory=Limits, description="limits are rates the tenant may not exceed. Unset means no limits."
    )
    budgets: tuple[Budget, ...] = Field(
        default=(),
        max_length=4,
        description="budgets are amounts that may be used up per period, one for each period. Empty, the default, "
        "means no budget.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["period"]},
    )
    allowed_tiers: tuple[ObjectName, ...] = Field(
        default=(),
        max_length=32,
        description="allowedTiers are the ModelTiers, in the tenant's own namespace, that may serve the tenant. "
        "Empty, the default, means all.",
    )
    compliance: Compliance = Field(
        default_factory=Compliance,
        description="compliance says which pools may see the tenant's data. Unset means all.",
    )


class Tenant(Object):
    """Tenant is a caller: how it is known, and what it may have."""

    short_names: ClassVar[tuple[str, ...]] = ("tn",)
    plural: ClassVar[str] = "tenants"

    kind: Literal["Tenant"] = "Tenant"
    spec: TenantSpec = Field(description="spec is the tenant as wanted: how it is known, its share and its limits.")
