"""Speculative decoding of a pool's servers, as far as placement has to know."""

from pydantic import Field

from ralb_api.objects.common import Spec


class Speculative(Spec):
    """Servers that draft several tokens and verify them in one step."""

    draft_tokens: int = Field(
        ge=1,
        le=16,
        description="draftTokens is how many tokens the servers draft per step (vLLM's num_speculative_tokens).",
    )
