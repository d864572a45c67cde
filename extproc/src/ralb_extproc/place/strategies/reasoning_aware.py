"""The default: the pod where the request, and those it meets there, lose the least time.

In seconds:

    cost = wait + factor x (base + prefill (1 + reuse + behind) + haste (requests prefill + requests token x output))
           + room + adapter

wait      until the prefill queued there is done (``clock``), from what we sent and who the pod says is waiting
base      the step the request joins: grows with the requests and the context the pod holds
prefill   of the prompt tokens not expected in its cache, with their attention to those that are
reuse     a token computed there pushes one out that might have been found later: prompt tokens found in the pool's caches for
          each one computed, at most 1; 0 where nothing is ever found
behind    how many requests will have come to the pod before this prefill is done, each of them kept waiting for all of it: the
          pool's arrivals per pod x (wait + prefill); reuse and this together at most 20. In a rush the pool saves work, not time
haste     what it costs the others: every stream on the pod stands still during the prefill, and every later step is longer by
          one more sequence. Their loss is a share of a whole answer, ours is a share of a first token, so theirs counts by the
          mean time to first token / mean duration of the pool, a quarter of it, and at most 0.1
factor    how many times as slow as its peers the pod is; 1 unless it is clearly off
room      where the cache is too full to admit it: until others will have left
adapter   loading the LoRA adapter, where it is not there

The seconds come from the pool's learned ``model``: no weight is to be set. Expected answers come with the request, by pool,
intent and effort, so a pod of long reasoning is dear to join although its queue is empty. Session affinity follows from the
prefix, and gives way when waiting for the warm pod costs more than the cold one's prefill. Where the prompt's blocks are not
known, the pod that had the session's last request is expected to hold that prompt and its answer; a request of unknown length is
taken to be as long.

Signals: metrics pages (own counts alone where there are none), own requests since, prefix index, sessions, outcomes. Limits: it
looks at one request at a time; a pod's batch is summed up in requests and tokens.
"""

from dataclasses import replace
from typing import ClassVar, Final

import numpy as np

from ralb.v1.snapshot_pb2 import Balancing
from ralb_extproc.place import columns as col
from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Floats
from ralb_extproc.place.load import load
from ralb_extproc.place.strategies.homes import Homes, position
from ralb_extproc.place.strategies.keys import key_of
from ralb_extproc.place.strategy import Scene, Strategy
from ralb_extproc.place.views import PoolView

_MOST_REUSE: Final = 1.0
_HASTE: Final = 0.25
_MOST_HASTE: Final = 0.1
_MOST_BEHIND: Final = 20.0
_ADAPTER_SECONDS: Final = 0.25
_ANSWER: Final = 256  # tokens, where nothing is expected
_MOST_REMEMBERED: Final = float(1 << 22)  # tokens of a session


class ReasoningAware(Strategy):
    """See the module."""

    uses_prefix: ClassVar[bool] = True

    def __init__(self, balancing: Balancing | None = None) -> None:
        self._homes = Homes(balancing.affinity_ttl_s if balancing is not None else 0.0)

    def costs(self, scene: Scene) -> Floats:
        """See ``Strategy.costs``."""
        block, state, model, ask, hits = scene.block, scene.steady, scene.model, scene.ask, scene.hits
        requests = block[col.SEEN] if state.fresh else load(block, state.trust, state.typical)
        since = block[col.SINCE_TOKENS]
        if state.crowd != 1.0:
            # The others have seen what we have, and have sent as much each since.
            requests = requests + block[col.SINCE] * (state.crowd - 1.0)
            since = since * state.crowd
        context = state.held + since
        haste = min(_MOST_HASTE, _HASTE * model.impatience)
        output = ask.output_tokens or model.output
        tokens = float(ask.input_tokens)
        reuse = 1.0 + min(_MOST_REUSE, model.reuse)
        joining = model.per_request + haste * output * model.token_per_request
        wait = block[col.FREE_AT] - scene.now
        np.maximum(wait, 0.0, out=wait)
        arrivals = state.crowd / (model.gap * len(wait))  # per pod and second
        behind: Floats = wait * arrivals
        out: Floats
        if hits is None:
            prefill = model.own_prefill(0.0, tokens)
            behind += arrivals * prefill + reuse
            np.minimum(behind, _MOST_BEHIND, out=behind)
            behind *= prefill
            out = requests * (joining + haste * prefill)
            out += behind
            out += model.base
        else:
            # prefill = uncached (per_token + per_pair (hits + uncached / 2)), and uncached = tokens - hits
            prefilling = hits * (0.5 * model.per_pair)
            prefilling += model.per_token + 0.5 * model.per_pair * tokens
            prefilling *= tokens - hits
            behind += arrivals * prefilling
            behind += reuse
            np.minimum(behind, _MOST_BEHIND, out=behind)
            out = requests * haste
            out += behind
            out *= prefilling
            out += requests * joining
            out += model.base
        full = _room(scene, context) if state.tight else None
        context *= model.per_context
        out += context
        if state.pace is not None:
            out *= state.pace
        out += wait
        if full is not None:
            out += full
        if scene.resident is not None:
            out += np.where(scene.resident, 0.0, _ADAPTER_SECONDS)
        return out

    def recalled(self, scene: Scene) -> Scene:
        """See ``Strategy.recalled``."""
        ask, belief = scene.ask, scene.steady.belief
        home = self._homes.get(key_of(ask), scene.now)
        if home is None:
            return scene
        if not ask.input_tokens:
            ask = replace(ask, input_tokens=round(home.tokens))
        where = position(scene.view, home)
        if where < 0:
            return scene._replace(ask=ask)
        hits = np.zeros(len(scene.view.slots))
        hits[where] = min(home.tokens, ask.input_tokens) * (1.0 if belief is None else belief[where])
        return scene._replace(ask=ask, hits=hits)

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """See ``Strategy.placed``."""
        if not ask.session or ask.prefix.hashes:
            return
        session = key_of(ask)
        prompt: float = ask.input_tokens
        if not prompt:
            home = self._homes.get(session, now)
            prompt = home.tokens if home is not None else 0.0
        self._homes.put(session, slot, now, min(prompt + (ask.output_tokens or _ANSWER), _MOST_REMEMBERED))

    def forget(self, slot: int) -> None:
        """See ``Strategy.forget``."""
        self._homes.forget(slot)


def _room(scene: Scene, context: Floats) -> Floats:
    """Seconds until a cache has room: what is lacking, at the rate at which what it holds is given back."""
    block, model = scene.block, scene.model
    tokens = float(scene.ask.input_tokens)
    capacity = block[col.KV_CAPACITY]
    need = scene.steady.trust * block[col.WAITING] * model.uncached + (
        tokens if scene.hits is None else tokens - scene.hits
    )
    lacking = np.maximum(need + context - capacity, 0.0)
    out: Floats = np.where(capacity > 0.0, lacking * model.duration / np.maximum(context, 1.0), 0.0)
    return out
