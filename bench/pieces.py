"""A piece of a trace as real requests: which rows, and bodies whose texts share exactly what the rows' blocks share.

A pod of ``ralb-sim`` takes four characters for a token, so a block's id becomes that many characters made from the id and a
salt: equal ids give equal texts, and another salt gives prompts that no cache has seen. How long an answer gets is told the pod
by ``min_tokens``, which no placement looks at; pods must be started with ``NATURAL`` for it to be exact.
"""

import json
import random
from dataclasses import replace

import xxhash

from ralb_sim.answers import filler
from ralb_sim.offline.trace import Row, Trace
from ralb_sim.offline.workload import Job

NATURAL = {"output_median": 1, "output_sigma": 0}
"""Options of the simulated pods: answers are as short as can be unless a request wants more."""
MIN_ANSWER = 4
"""The shortest answer a simulated pod gives, tokens."""
_TOKEN = 4  # characters
_FRAME = 4  # tokens that a chat with one message has around the text


def piece(trace: Trace, rows: int, seed: int) -> Trace:
    """About the trace in small: whole conversations drawn by chance until there are so many rows, in their order of time.

    Consecutive rows of a trace share little, because a conversation takes longer than a short piece lasts. Where rows have no
    session, those that begin with the same block are one conversation.
    """
    units: dict[object, list[Row]] = {}
    for number, row in enumerate(trace.rows):
        key = row.session.partition("/")[0] if row.session else row.blocks[0] if row.blocks else number
        units.setdefault(key, []).append(row)
    keys = list(units)
    random.Random(seed).shuffle(keys)
    taken: list[Row] = []
    for key in keys:
        if len(taken) >= rows:
            break
        taken += units[key]
    taken.sort(key=lambda row: row.t)
    start = taken[0].t
    return replace(trace, rows=tuple(replace(row, t=row.t - start) for row in taken[:rows]))


def text(salt: str, label: str, tokens: int) -> str:
    """Plain sentences of exactly so many tokens, the same for the same salt and label."""
    size = tokens * _TOKEN
    return (f"{salt} {label}. " + filler(xxhash.xxh3_64_intdigest(f"{salt} {label}".encode()), tokens))[:size]


def body(job: Job, number: int, block_tokens: int, salt: str, model: str) -> bytes:
    """A streamed chat request of the job's prompt length and answer length, sharing with others what the blocks say."""
    own = job.input - len(job.blocks) * block_tokens - _FRAME
    parts = [text(salt, f"{block:x}", block_tokens) for block in job.blocks]
    parts.append(text(salt, f"own {number}", max(own, 0)))
    return chat("".join(parts), job.output, model)


def chat(prompt: str, output: int, model: str) -> bytes:
    """A streamed chat request with one message and an answer of so many tokens."""
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "min_tokens": output,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
