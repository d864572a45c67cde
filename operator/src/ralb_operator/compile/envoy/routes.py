"""The one route: every request goes where the processor's order says, attempt by attempt.

The order is dynamic metadata, with the clusters given inline, so that adding a pool changes no route. Without an order (the
processor answered nothing) a request goes nowhere and gets 503.
"""

from datetime import timedelta
from functools import lru_cache

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    ClusterSpecifierPlugin,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate

from ralb.v1.envoy_overlay_pb2 import ClusterWeight, PriorityGroup, PriorityGroupClusterSpecifier
from ralb_api import headers
from ralb_operator.compile.envoy.balancing import hash_policy
from ralb_operator.compile.envoy.clusters import CLUSTER_METADATA, NOWHERE
from ralb_operator.compile.envoy.pack import extension, overlay, typed
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import ROUTES, Resource

NAME = "ralb"
_RETRY_ON = "connect-failure,refused-stream,reset,5xx,retriable-status-codes"
_SPECIFIER = "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
_ANSWERED = {
    headers.TIER: f"%DYNAMIC_METADATA({headers.METADATA_DECISION}:tier)%",
    headers.DECISION_ID: f"%DYNAMIC_METADATA({headers.METADATA_DECISION}:id)%",
    # Pool and model are those that really answered, whatever was planned.
    headers.POOL: f"%CLUSTER_METADATA({CLUSTER_METADATA}:pool)%",
    headers.MODEL: f"%CLUSTER_METADATA({CLUSTER_METADATA}:model)%",
    headers.ATTEMPTS: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    headers.EXPLANATION: f"%DYNAMIC_METADATA({headers.METADATA_DECISION}:explanation)%",
}


@lru_cache(maxsize=16)
def routes(gateway: Gateway) -> Resource:
    """The route table."""
    action = RouteAction(
        # Long answers are legitimate: only silence ends a request.
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=gateway.idle_timeout_s),
        inline_cluster_specifier_plugin=ClusterSpecifierPlugin(
            extension=extension(
                "envoy.router.cluster_specifier_plugin.priority_group", overlay(_SPECIFIER, _specifier())
            )
        ),
        hash_policy=[hash_policy()],
        retry_policy=RetryPolicy(
            retry_on=_RETRY_ON,
            retriable_status_codes=[429],
            num_retries=gateway.max_attempts - 1,
            refresh_cluster_on_retry=True,
            # Attempts go to different pods, so waiting between them buys little.
            retry_back_off=RetryPolicyRetryBackOff(
                base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=50)
            ),
            retry_host_predicate=[
                RetryPolicyRetryHostPredicate(
                    name="envoy.retry_host_predicates.previous_hosts", typed_config=typed(PreviousHostsPredicate())
                )
            ],
            host_selection_retry_max_attempts=8,
        ),
    )
    route = Route(
        name="ralb",
        match=RouteMatch(prefix="/"),
        route=action,
        response_headers_to_add=[_answer(name, value) for name, value in _ANSWERED.items()],
        # Removal comes before addition, so what a server says under our names does not stay.
        response_headers_to_remove=["x-envoy-upstream-service-time", "endpoint-load-metrics", *_ANSWERED],
    )
    table = RouteConfiguration(
        name=NAME,
        virtual_hosts=[VirtualHost(name=NAME, domains=["*"], routes=[route])],
        validate_clusters=True,
    )
    return Resource.of(ROUTES, NAME, bytes(table))


def _specifier() -> PriorityGroupClusterSpecifier:
    nowhere = PriorityGroup(name=NOWHERE, clusters=[ClusterWeight(cluster_name=NOWHERE)])
    nowhere.clusters[0].weight.value = 1
    return PriorityGroupClusterSpecifier(priority_groups=[nowhere], override_metadata_namespace=headers.METADATA_ORDER)


def _answer(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=False,
    )
