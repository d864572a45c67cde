"""Reading token usage and nothing else out of answers, inside Envoy: no answer passes through Python for it.

The fields of the three API families differ; all end up under four keys of one metadata namespace: ``in``, ``out``,
``cached``, ``reasoning``. Where a stream reports usage more than once, the last report wins.
"""

from functools import cache

from envoy_data_plane.envoy.extensions.content_parsers.json.v3 import JsonContentParser, JsonContentParserRuleConfig
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
    JsonToMetadata,
    JsonToMetadataKeyValuePair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector,
    JsonToMetadataValueType,
)
from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata.v3 import (
    SseToMetadata,
    SseToMetadataProcessingRules,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from ralb_api import headers
from ralb_operator.compile.envoy.pack import extension, typed

# metadata key -> where it may stand, relative to a usage object
_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("in", ("prompt_tokens",)),
    ("in", ("input_tokens",)),
    ("out", ("completion_tokens",)),
    ("out", ("output_tokens",)),
    ("cached", ("prompt_tokens_details", "cached_tokens")),
    ("cached", ("input_tokens_details", "cached_tokens")),
    ("cached", ("cache_read_input_tokens",)),
    ("reasoning", ("completion_tokens_details", "reasoning_tokens")),
    ("reasoning", ("output_tokens_details", "reasoning_tokens")),
)
# where a usage object may stand: chat, completions and Anthropic's last event; Anthropic's first event; responses' events
_JSON_ROOTS: tuple[tuple[str, ...], ...] = (("usage",),)
_SSE_ROOTS: tuple[tuple[str, ...], ...] = (("usage",), ("message", "usage"), ("response", "usage"))


def _rules(roots: tuple[tuple[str, ...], ...]) -> list[JsonToMetadataRule]:
    return [
        JsonToMetadataRule(
            selectors=[JsonToMetadataSelector(key=part) for part in (*root, *path)],
            on_present=JsonToMetadataKeyValuePair(
                metadata_namespace=headers.METADATA_USAGE, key=key, type=JsonToMetadataValueType.NUMBER
            ),
        )
        for root in roots
        for key, path in _FIELDS
    ]


@cache
def usage_filters() -> tuple[HttpFilter, HttpFilter]:
    """The two filters, for event streams and for JSON answers."""
    sse = SseToMetadata(
        response_rules=SseToMetadataProcessingRules(
            content_parser=extension(
                "envoy.content_parsers.json",
                typed(JsonContentParser(rules=[JsonContentParserRuleConfig(rule=rule) for rule in _rules(_SSE_ROOTS)])),
            ),
            max_event_size=65536,
        )
    )
    plain = JsonToMetadata(response_rules=JsonToMetadataMatchRules(rules=_rules(_JSON_ROOTS)))
    return (
        HttpFilter(name="ralb.sse_usage", typed_config=typed(sse)),
        HttpFilter(name="ralb.json_usage", typed_config=typed(plain)),
    )
