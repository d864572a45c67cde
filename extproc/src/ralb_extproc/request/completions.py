"""OpenAI completions: one prompt or a batch of them, as text or as token ids."""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields, tokens
from ralb_extproc.request.draft import Draft
from ralb_extproc.types import Turn


def read(body: Mapping[str, Any], draft: Draft) -> None:
    """Read a completion body."""
    read_prompts(body, "prompt", draft)
    suffix = fields.optional_text(body, "suffix")
    if suffix:
        draft.known_tokens += tokens.estimate(suffix)
    draft.max_output = fields.whole(body, "max_tokens", 0) or 0
    draft.choices = fields.whole(body, "n", 1, 128) or 1
    wanted = fields.optional_object(body, "response_format")
    draft.structured = (wanted is not None and wanted.get("type") in ("json_object", "json_schema")) or bool(
        body.get("structured_outputs") or body.get("guided_json")
    )


def read_prompts(body: Mapping[str, Any], name: str, draft: Draft) -> None:
    """Read a string, a list of strings, a list of token ids or a list of such lists: one user turn per prompt.

    Prompts of token ids have an empty text (nobody can read them) but count exactly.
    """
    value = body.get(name)
    if type(value) is str:
        draft.turns.append(Turn("user", value))
        draft.known_tokens = tokens.estimate(value)
        return
    if type(value) is not list:
        missing = "is required and " if value is None else ""
        raise fields.invalid(name, f"{missing}must be a string, or a list of strings or token ids")
    if not value:
        raise fields.invalid(name, "must not be empty")
    kinds = set(map(type, value))
    if kinds == {str}:
        counts = [tokens.estimate(text) for text in value]
        draft.turns.extend(Turn("user", text) for text in value)
    elif kinds == {int}:
        counts = [_ids(value, name)]
        draft.turns.append(Turn("user", ""))
    elif kinds == {list}:
        counts = [_ids(ids, f"{name}[{index}]") for index, ids in enumerate(value)]
        draft.turns.extend(Turn("user", "") for _ in value)
    else:
        raise fields.invalid(name, "must hold only strings, only token ids, or only lists of token ids")
    draft.known_tokens = sum(counts)
    if len(counts) > 1:
        draft.longest_prompt = max(counts)


def _ids(ids: list[Any], at: str) -> int:
    if not ids:
        raise fields.invalid(at, "must not be empty")
    if set(map(type, ids)) != {int}:
        raise fields.invalid(at, "must hold only token ids, which are integers")
    if min(ids) < 0 or max(ids) > fields.MAX_INT:
        raise fields.invalid(at, f"must hold token ids from 0 to {fields.MAX_INT}")
    return len(ids)
