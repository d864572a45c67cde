"""What a request can be about: the intents rules may name and the processor tells apart."""

from typing import Final

INTENTS: Final = (
    "intent-classification",
    "extraction",
    "transformation",
    "safety",
    "tool-calling",
    "compression",
    "simple-logic",
    "planning",
    "ambiguity",
    "critique",
    "code",
    "maths",
    "creative",
    "chat",
)
