"""Names on the wire: every header RALB reads or writes (DESIGN section 6), in lower case as HTTP/2 wants them."""

from typing import Final

# Read from clients.
WORKLOAD_CLASS: Final = "x-ralb-workload-class"
INTENT: Final = "x-ralb-intent"
SESSION: Final = "x-ralb-session"
MAX_TIER: Final = "x-ralb-max-tier"
EXPLAIN: Final = "x-ralb-explain"
CLIENT_HEADERS: Final = frozenset({WORKLOAD_CLASS, INTENT, SESSION, MAX_TIER, EXPLAIN})

# Session identity that agent harnesses already send, most specific first; values are opaque.
SESSION_HEADERS: Final = (
    SESSION,
    "x-claude-code-session-id",
    "x-dynamo-session-id",
    "x-session-affinity",
    "x-aibrix-session-key",
    "x-smg-routing-key",
    "x-session-id",
    "session-id",
    "session_id",
)

# Credentials of clients: the processor has no use for them, so it is not shown them.
CREDENTIALS: Final = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")

# Answered.
TIER: Final = "x-ralb-tier"
POOL: Final = "x-ralb-pool"
MODEL: Final = "x-ralb-model"
DECISION_ID: Final = "x-ralb-decision-id"
ATTEMPTS: Final = "x-ralb-attempts"
EXPLANATION: Final = "x-ralb-explanation"

REQUEST_ID: Final = "x-request-id"
RETRY_AFTER: Final = "retry-after"

# What a client may not set: Envoy and gateway controls, and everything of ours that is not in CLIENT_HEADERS.
OWN_PREFIX: Final = "x-ralb-"
RESERVED_PREFIXES: Final = ("x-envoy-", "x-gateway-")

# Tells a decode pod's sidecar which pod, ``ip:port``, is to compute the prompt. No client may say so: pods connect there.
PREFILLER: Final = "x-prefiller-host-port"

# Dynamic metadata the processor sets and Envoy reads.
METADATA_LB: Final = "envoy.lb"
METADATA_LB_KEY: Final = "x-gateway-destination-endpoint"
# Endpoint Picker Protocol: the pick is also a header of that name; what gateways tell the picker.
DESTINATION: Final = METADATA_LB_KEY
METADATA_SUBSET: Final = "envoy.lb.subset_hint"
METADATA_SUBSET_KEY: Final = "x-gateway-destination-endpoint-subset"
METADATA_SERVED_KEY: Final = "x-gateway-destination-endpoint-served"
# The InferenceObjective of a request, under its two names.
OBJECTIVE_HEADERS: Final = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
METADATA_ORDER: Final = "ralb.order"
METADATA_DECISION: Final = "ralb.decision"
METADATA_HASH_KEY: Final = "hash"  # in METADATA_DECISION: what Envoy hashes where it chooses the pod
# Dynamic metadata Envoy extracts from answers and the access log carries back.
METADATA_USAGE: Final = "ralb.usage"
