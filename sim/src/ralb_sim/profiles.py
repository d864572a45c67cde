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


_L4 = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "max_model_len": 32_768}
_A100 = {"max_num_batched_tokens": 2048, "max_num_seqs": 256, "max_model_len": 131_072}
_H100 = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024, "max_model_len": 131_072}

# fmt: off
_ALL = (
    Profile("llama-3-8b-l4", "8B dense, one L4 24 GB",
            t_w=60.0, b=0.233, a_d=0.58, a_p=1.17e-5, r0=0.0, r1=0.0, h=2.0, kv_tokens=34_000, output_median=180, **_L4),
    Profile("llama-3-8b-a100", "8B dense, one A100 80 GB",
            t_w=11.9, b=0.0705, a_d=0.092, a_p=2.9e-6, r0=0.0, r1=0.0, h=2.0, kv_tokens=448_000, output_median=180, **_A100),
    Profile("llama-3-8b-h100", "8B dense, one H100 80 GB",
            t_w=7.1, b=0.0233, a_d=0.056, a_p=1.3e-6, r0=0.0, r1=0.0, h=2.0, kv_tokens=445_000, output_median=180, **_H100),
    Profile("llama-3-70b-4xa100", "70B dense, four A100 80 GB",
            t_w=28.2, b=0.168, a_d=0.057, a_p=3.6e-6, r0=3.5, r1=0.020, h=2.0, kv_tokens=480_000, output_median=240, **_A100),
    Profile("llama-3-70b-4xh100", "70B dense, four H100 80 GB",
            t_w=15.8, b=0.0578, a_d=0.035, a_p=1.6e-6, r0=2.5, r1=0.010, h=2.0, kv_tokens=478_000, output_median=240, **_H100),
    # An estimate from datasheets only: 235B total / 22B active parameters, FP8, 94 layers, 64 heads, 4 KV heads of 128
    # (each held twice at TP 8). t_w is the regime in which a batch touches nearly all experts (over about 32 sequences);
    # a lone sequence would be faster. Efficiencies are those of the 70B rows.
    Profile("moe-235b-8xh100", "235B-A22B mixture of experts in FP8, eight H100 80 GB (estimate)",
            t_w=12.5, b=0.018, a_d=0.0205, a_p=9.5e-7, r0=2.9, r1=0.006, h=3.0, kv_tokens=830_000, output_median=320, **_H100),
)
# fmt: on

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
