"""The numbers of a request that placing needs, and nothing else of it. A type only."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from ralb_extproc.place.prefix import NO_PREFIX, Prefix


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        input_tokens: prompt tokens, estimated.
        output_tokens: expected answer tokens; 0 = no idea.
        prefix: its hashed prompt.
        intent: what it is about, for learning.
        stream: whether a stream was asked for, for learning.
        only: addresses it may go to; None = any.
        session: conversation or agent program it belongs to; "" = none known.
        adapter: LoRA adapter it asks for; "" = the base model.
        headers: the client's, names in lower case, for strategies that hash one.
        effort: how much it is to be reasoned about, for learning; "" = not said.
    """

    input_tokens: int
    output_tokens: int = 0
    prefix: Prefix = NO_PREFIX
    intent: str = ""
    stream: bool = False
    only: Container[str] | None = None
    session: str = ""
    adapter: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    effort: str = ""
