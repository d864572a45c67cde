"""What a balancing strategy is: a cost per pod. Everything else about the order of pods is the same for all of them.

Before the cost comes the class: fit pods, then those with as much as they seem to take, then those held back to their share
of the work (``health``), then pods at their concurrency cap, then pods that failed and are not yet due for a probe. Costs are
multiplied by a random 1 to 1.02, so near equals share the work and replicas of the processor do not herd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ralb_extproc.place.ask import Ask
from ralb_extproc.place.columns import Bools, Floats
from ralb_extproc.place.dice import Dice
from ralb_extproc.place.load import Steady, classes, held_back, state_of
from ralb_extproc.place.model import SpeedModel
from ralb_extproc.place.views import PoolView

_PARTIAL: Final = 64  # from so many pods on, sorting only the best pays


class Scene(NamedTuple):
    """What a strategy compares pods by.

    Attributes:
        view: the pool's pods; positions below are positions in it.
        block: their columns, (columns x pods), not to be written.
        steady: what holds for some milliseconds about them.
        hits: prompt tokens expected in each pod's prefix cache, already trusted only as far as they came true; None = none
            anywhere, or the strategy does not ask for them.
        ask: the request.
        now: monotonic seconds.
        dice: chance.
        model: what is learned of the pool's speed.
        resident: which pods hold the request's LoRA adapter; None = it asks for none, or no pod is known to.
        overdrawn: which pods have had their share of the work; only where ``steady.reduced`` has any.
    """

    view: PoolView
    block: Floats
    steady: Steady
    hits: Floats | None
    ask: Ask
    now: float
    dice: Dice
    model: SpeedModel
    resident: Bools | None = None
    overdrawn: Bools | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What a strategy may learn from a request that was answered in full.

    Attributes:
        duration: seconds from its arrival to the last byte.
        ttft: seconds to the first token; None = not known.
        output_tokens: of the answer, counted or estimated.
    """

    duration: float
    ttft: float | None
    output_tokens: int


class Strategy:
    """One object per pool, so it may keep state of its pool; bounded, please. Its name is the class's, and the API's.

    Attributes:
        uses_prefix: whether it wants ``Scene.hits``, which cost a lookup.
        spreads: whether near equals are to be shuffled; False for strategies whose order is the point (hashing, round robin).
    """

    uses_prefix: ClassVar[bool] = False
    spreads: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """As ``spec.balancing.strategy`` has it."""
        return type(self).__name__

    def costs(self, scene: Scene) -> Floats:
        """A cost per pod, (pods,), at least 0, lower is better. Changes nothing that another call would notice."""
        raise NotImplementedError

    def recalled(self, scene: Scene) -> Scene:
        """The scene with what is remembered of a session whose prompt's blocks are not known; changes nothing else."""
        return scene

    def hash_key(self, ask: Ask, now: float) -> str:
        """What Envoy is to hash where it chooses the pod itself; "" = nothing. Changes nothing."""
        return ""

    def placed(self, view: PoolView, slot: int, ask: Ask, now: float) -> None:
        """A request was charged to the pod in ``slot``."""

    def sent(self, ask: Ask, now: float) -> None:
        """A request was sent to the pool, and Envoy chooses the pod."""

    def finished(self, slot: int, served: Served, now: float) -> None:
        """The pod in ``slot`` answered a request in full."""

    def forget(self, slot: int) -> None:
        """The pod in ``slot`` left or restarted."""


class Ranking(NamedTuple):
    """The pods of a pool in order of preference.

    Attributes:
        order: positions in the pool's view, best first; at least the first ``want`` of them.
        best: state of the first: FIT, CAPPED or FAILING.
        usable: how many pods are FIT or CAPPED.
        held: how many are held back to their share.
        score: the first pod's cost, without the random factor.
        uncached: prompt tokens the first pod would have to prefill.
    """

    order: Sequence[int]
    best: int
    usable: int
    score: float
    uncached: float
    held: int = 0


def rank(strategy: Strategy, scene: Scene, want: int) -> Ranking:
    """Rank the pods of a scene; ``want`` of the best are needed in order."""
    if scene.hits is None and scene.ask.session and not scene.ask.prefix.hashes:
        scene = strategy.recalled(scene)
    state, input_tokens = scene.steady, scene.ask.input_tokens
    costs = scene_costs = strategy.costs(scene)
    if strategy.spreads:
        costs = scene_costs * scene.dice.near(len(scene_costs))
    found = classes(scene.block, state, scene.overdrawn)
    order = _order(costs, found, want)
    first = order[0]
    uncached = float(input_tokens) if scene.hits is None else max(0.0, input_tokens - float(scene.hits[first]))
    best = state_of(found, first)
    return Ranking(order, best, state.usable, float(scene_costs[first]), uncached, held_back(found))


def rank_spare(state: Steady, input_tokens: int) -> Ranking:
    """The same for pods that only come in when a better pool fails: by load alone, some milliseconds old."""
    return Ranking(state.order, state.best, state.usable, 0.0, float(input_tokens))


def _order(keys: Floats, found: npt.NDArray[np.int8] | None, want: int) -> list[int]:
    count = len(keys)
    if found is not None:
        order: list[int] = np.lexsort((keys, found)).tolist()
    elif count < _PARTIAL or want >= count:
        order = keys.argsort(kind="stable").tolist()
    else:
        best = keys.argpartition(want)[:want]
        order = best[keys[best].argsort()].tolist()
    return order
