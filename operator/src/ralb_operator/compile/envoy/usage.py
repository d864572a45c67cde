"""Reading token usage and nothing else out of answers, inside Envoy: no answer passes through Python for it.

The fields of the three API families differ; all end up under four keys of one metadata namespace: ``in``, ``out``,
``cached``, ``reasoning``. Where a stream reports usage more than once, the last report wins.

Trap: to read a JSON answer it is held back until it is whole, and if it outgrows the listener's buffer, the client gets an
error. Answers that say to be that large (embeddings of many texts) are therefore passed on unread.
"""

from functools import lru_cache

from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher
from envoy_data_plane.envoy.extensions.content_parsers.json.v3 import JsonContentParser, JsonContentParserRuleConfig
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
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
from envoy_data_plane.envoy.type.matcher.v3 import HttpResponseHeaderMatchInput
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
    RegexMatcher,
    RegexMatcherGoogleRe2,
    StringMatcher,
)

from ralb_api import headers
from ralb_operator.compile.envoy.pack import extension, typed

# Events of the Responses API repeat the whole request and answer, and the last of them has the usage.
_MAX_EVENT_BYTES = 10 * 1024 * 1024
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


@lru_cache(maxsize=16)
def usage_filters(buffer_bytes: int) -> tuple[HttpFilter, HttpFilter]:
    """The two filters, for event streams and for JSON answers.

    Args:
        buffer_bytes: what fits the listener's buffer.
    """
    sse = SseToMetadata(
        response_rules=SseToMetadataProcessingRules(
            content_parser=extension(
                "envoy.content_parsers.json",
                typed(JsonContentParser(rules=[JsonContentParserRuleConfig(rule=rule) for rule in _rules(_SSE_ROOTS)])),
            ),
            max_event_size=_MAX_EVENT_BYTES,
        )
    )
    plain = JsonToMetadata(response_rules=JsonToMetadataMatchRules(rules=_rules(_JSON_ROOTS)))
    return (
        HttpFilter(name="ralb.sse_usage", typed_config=typed(sse)),
        HttpFilter(name="ralb.json_usage", typed_config=typed(_unless_too_large(plain, buffer_bytes))),
    )


def _unless_too_large(config: JsonToMetadata, buffer_bytes: int) -> ExtensionWithMatcher:
    # Matchers know no numbers: as many digits as the limit has, or more, is too large.
    digits = len(str(buffer_bytes))
    predicate = MatcherMatcherListPredicate(
        single_predicate=MatcherMatcherListPredicateSinglePredicate(
            input=_matcher_extension("content-length", HttpResponseHeaderMatchInput(header_name="content-length")),
            value_match=StringMatcher(
                safe_regex=RegexMatcher(google_re2=RegexMatcherGoogleRe2(), regex=f"[0-9]{{{digits},}}")
            ),
        )
    )
    skip = MatcherOnMatch(action=_matcher_extension("skip", SkipFilter()))
    return ExtensionWithMatcher(
        extension_config=extension("envoy.filters.http.json_to_metadata", typed(config)),
        xds_matcher=Matcher(
            matcher_list=MatcherMatcherList(
                matchers=[MatcherMatcherListFieldMatcher(predicate=predicate, on_match=skip)]
            )
        ),
    )


def _matcher_extension(name: str, config: HttpResponseHeaderMatchInput | SkipFilter) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=typed(config))
