"""How long one engine step takes.

`T = sqrt(t_w^2 + (b*n)^2) + a_d*sum(ctx)/1000 + a_p*sum(c*(p + c/2)) + r0 + r1*n + h` in milliseconds, with `n` the tokens of
the step, `ctx` the context of every decoding sequence, and `c` new prefill tokens on `p` already computed ones. The root of
squares of weight streaming and compute fits measured profiles of linear layers within 4-8 %. A drafted token is computed like any
other of the step, and adds `0.03 * t_w`: a draft head or small model streams a few percent of the weights, once per token.
"""

from dataclasses import dataclass
from math import hypot

from ralb_sim.profiles import Profile

_DRAFT_SHARE = 0.03


@dataclass(slots=True)
class StepShape:
    """What a step works on, summed.

    Attributes:
        tokens: Decode and prefill tokens together.
        decode_context: Sum of the context lengths (tokens) of the decoding sequences.
        prefill_pairs: Sum over prefill chunks of `c * (p + c/2)`.
        drafts: Tokens a draft model made one after the other before the step; 0 without speculation.
    """

    tokens: int = 0
    decode_context: int = 0
    prefill_pairs: float = 0.0
    drafts: int = 0

    def add_decode(self, context: int, drafts: int = 0) -> None:
        """Account one decoding sequence with `context` tokens behind it, and so many drafted ones to verify."""
        self.tokens += 1 + drafts
        self.decode_context += context
        self.drafts = max(self.drafts, drafts)

    def add_prefill(self, new: int, computed: int) -> None:
        """Account a prefill chunk of `new` tokens on `computed` ones."""
        self.tokens += new
        self.prefill_pairs += new * (computed + new / 2)


def step_seconds(profile: Profile, shape: StepShape) -> float:
    """Return the duration of a step in seconds; 0.0 for an empty one."""
    if not shape.tokens:
        return 0.0
    milliseconds = (
        hypot(profile.t_w, profile.b * shape.tokens)
        + profile.a_d * shape.decode_context / 1000
        + profile.a_p * shape.prefill_pairs
        + profile.r0
        + profile.r1 * shape.tokens
        + profile.h
        + _DRAFT_SHARE * profile.t_w * shape.drafts
    )
    return milliseconds / 1000
