"""Model profiles: what one engine step costs for a given model on given cards.

Constants come from fits of published kernel profiles (linear layers, mean error 4-8 %) and datasheet rooflines (attention,
host, L4). Trap: the whole model is good to about +-20 %; use it to compare policies, not to size a cluster.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one set of cards; times in milliseconds.

    Attributes:
        name: Name used on the command line.
        model: What the profile stands for, in words.
        t_w: Weight-streaming floor of a step, ms.
        b: Compute per token, ms.
        a_d: KV reading per 1,000 context tokens of decoding sequences, ms.
        a_p: Prefill attention per (new token x context token), ms.
        r0: Tensor-parallel all-reduce per step, ms.
        r1: Tensor-parallel all-reduce per token, ms.
        h: Host overhead per step, ms.
        kv_tokens: Tokens the KV cache holds.
        max_num_batched_tokens: Token budget of a step (vLLM's default for the card).
        max_num_seqs: Sequences running at once (vLLM's default for the card).
        max_model_len: Context window in tokens.
        output_median: Median answer length in tokens when nothing else decides it.
    """

    name: str
    model: str
    t_w: float
    b: float
    a_d: float
    a_p: float
    r0: float
    r1: float
    h: float
    kv_tokens: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    output_median: int


_ALL = (
    Profile("llama-3-8b-l4", "8B dense, one L4 24 GB", 60.0, 0.233, 0.58, 1.17e-5, 0.0, 0.0, 2.0, 34_000, 2048, 256, 32_768, 180),
    Profile("llama-3-8b-a100", "8B dense, one A100 80 GB", 11.9, 0.0705, 0.092, 2.9e-6, 0.0, 0.0, 2.0, 448_000, 2048, 256, 131_072, 180),
    Profile("llama-3-8b-h100", "8B dense, one H100 80 GB", 7.1, 0.0233, 0.056, 1.3e-6, 0.0, 0.0, 2.0, 445_000, 8192, 1024, 131_072, 180),
    Profile("llama-3-70b-4xa100", "70B dense, four A100 80 GB", 28.2, 0.168, 0.057, 3.6e-6, 3.5, 0.020, 2.0, 480_000, 2048, 256, 131_072, 240),
    Profile("llama-3-70b-4xh100", "70B dense, four H100 80 GB", 15.8, 0.0578, 0.035, 1.6e-6, 2.5, 0.010, 2.0, 478_000, 8192, 1024, 131_072, 240),
    # An estimate from datasheets only: 235B total / 22B active parameters, FP8, 94 layers, 64 heads, 4 KV heads of 128
    # (each held twice at TP 8). t_w is the regime in which a batch touches nearly all experts (over about 32 sequences);
    # a lone sequence would be faster. Efficiencies are those of the 70B row.
    Profile("moe-235b-8xh100", "235B-A22B mixture of experts in FP8, eight H100 80 GB (estimate)", 12.5, 0.018, 0.0205, 9.5e-7, 2.9, 0.006, 3.0, 830_000, 8192, 1024, 131_072, 320),
)  # fmt: skip

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}
"""Every known profile by name."""


def get_profile(name: str) -> Profile:
    """Return the profile called `name`.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(PROFILES)}") from None
