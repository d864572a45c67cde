"""What the oracle is told: how long a request would take on a pod, from the pods' true state and the true answer length."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from ralb_sim.offline.kv import KvCache
from ralb_sim.offline.pod import Seq, SimPod
from ralb_sim.offline.policy import Work


class Foresight:
    """See ``policy.Truth``; good to some percent: it does not play the steps, it sums them up.

    Args:
        pods: the true ones; the list is kept.
        output_of: the true answer length of a request.
    """

    def __init__(self, pods: Sequence[SimPod], output_of: Callable[[Work], int]) -> None:
        self._pods = pods
        self._output_of = output_of
        self._queues = [_Queue(pod) for pod in pods]

    def completion(self, pod: int, work: Work, now: float) -> float:
        """Seconds until it would be done there."""
        engine = self._pods[pod]
        profile, kv = engine.profile, engine.kv
        output = self._output_of(work)
        queue = self._queues[pod]
        if queue.engine is not engine or queue.flight != engine.flights:
            queue = self._queues[pod] = _Queue(engine)
        queue.update()
        hit = _found(kv, work.blocks, work.input_tokens)
        own = work.input_tokens - hit
        tokens = queue.tokens + own
        pairs = queue.pairs + own * (hit + own / 2)
        decodes, leapt = engine.decodes, engine.leapt(now)
        context, step, free = engine.context + decodes * leapt, engine.step + leapt, kv.free - decodes * leapt
        budget = max(1, profile.max_num_batched_tokens - decodes)
        steps = -(-tokens // budget)
        linear = engine.step_seconds(min(budget, round(tokens / max(steps, 1))) + decodes, context, 0.0)
        prefill = steps * linear + profile.a_p * pairs / 1000 / engine.speed
        wait = max(0.0, engine.next_time - now) if decodes == 0 and engine.prefilling else 0.0
        # No room: those that finish next must make it.
        lacking = queue.need + own - free
        if lacking > 0 and decodes:
            wait += (queue.freed(lacking) - step) * engine.step_seconds(decodes, context, 0.0)
        after = engine.step_seconds(decodes + 1, context + work.input_tokens + output // 2, 0.0)
        return wait + prefill + output * after


class _Queue:
    """The prefill before a newcomer, summed up for as long as the pod's flight lasts."""

    def __init__(self, engine: SimPod) -> None:
        self.engine, self.flight = engine, engine.flights
        self.tokens = self.pairs = self.need = 0.0
        self._known = 0
        self._room: list[float] = []
        self._ends: list[int] = []
        self._ending: Iterator[tuple[int, int, Seq]] | None = None
        for seq in engine.prefilling:
            left = seq.length - seq.computed
            self.tokens += left
            self.pairs += left * (seq.computed + left / 2)

    def update(self) -> None:
        """Count those who have come since."""
        waiting = self.engine.waiting
        if self._known == len(waiting):
            return
        for seq in islice(waiting, self._known, None):
            cached = _found(self.engine.kv, seq.blocks, seq.length)
            left = seq.length - cached
            self.tokens += left
            self.pairs += left * (cached + left / 2)
            self.need += left
        self._known = len(waiting)

    def freed(self, lacking: float) -> int:
        """The step at whose end so many tokens are free again, or as many as ever will be."""
        room, ends = self._room, self._ends
        if self._ending is None:
            self._ending = iter(sorted(self.engine.decoding))
        while not room or room[-1] < lacking:
            following = next(self._ending, None)
            if following is None:
                break
            if following[2].finish_step == following[0]:
                room.append((room[-1] if room else 0.0) + following[2].prompt + following[2].output)
                ends.append(following[0])
        return ends[min(bisect_left(room, lacking), len(ends) - 1)]


def _found(kv: KvCache, blocks: Sequence[int], length: int) -> int:
    """Tokens in the cache."""
    size = kv.block_tokens
    return kv.match(blocks, (length - 1) // size) * size if size and blocks else 0
