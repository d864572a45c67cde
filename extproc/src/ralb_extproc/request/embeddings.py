"""OpenAI embeddings, with vLLM's extension that embeds a conversation."""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields
from ralb_extproc.request.chat import read_messages
from ralb_extproc.request.completions import read_prompts
from ralb_extproc.request.draft import Draft


def read(body: Mapping[str, Any], draft: Draft) -> None:
    """Read an embeddings body."""
    if body.get("input") is None and body.get("messages") is not None:
        read_messages(fields.objects(body, "messages", required=True), draft)
    else:
        read_prompts(body, "input", draft)
