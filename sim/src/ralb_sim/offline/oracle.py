"""What the oracle is told: how long a request would take on a pod, from the pods' true state and the true answer length."""

from collections.abc import Callable, Sequence

from ralb_sim.offline.pod import SimPod
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

    def completion(self, pod: int, work: Work, now: float) -> float:
        """Seconds until it would be done there."""
        engine = self._pods[pod]
        profile, kv = engine.profile, engine.kv
        output = self._output_of(work)
        size = kv.block_tokens
        hit = kv.match(work.blocks, (work.input_tokens - 1) // size) * size if size and work.blocks else 0
        # Prefill in front of it, in tokens and in (token x context) pairs.
        tokens, pairs, need = 0.0, 0.0, 0.0
        for seq in engine.prefilling:
            left = seq.length - seq.computed
            tokens += left
            pairs += left * (seq.computed + left / 2)
        for seq in engine.waiting:
            cached = kv.match(seq.blocks, (seq.length - 1) // size) * size if size and seq.blocks else 0
            left = seq.length - cached
            tokens += left
            pairs += left * (cached + left / 2)
            need += left
        own = work.input_tokens - hit
        tokens += own
        pairs += own * (hit + own / 2)
        need += own
        decodes, leapt = engine.decodes, engine.leapt(now)
        context, step, free = engine.context + decodes * leapt, engine.step + leapt, kv.free - decodes * leapt
        budget = max(1, profile.max_num_batched_tokens - decodes)
        steps = -(-tokens // budget)
        linear = engine.step_seconds(min(budget, round(tokens / max(steps, 1))) + decodes, context, 0.0)
        prefill = steps * linear + profile.a_p * pairs / 1000 / engine.speed
        wait = max(0.0, engine.next_time - now) if decodes == 0 and engine.prefilling else 0.0
        # No room: those that finish next must make it.
        lacking = need - free
        if lacking > 0 and decodes:
            freed, steps_to_wait = 0.0, 0
            for finish_step, _, seq in sorted(engine.decoding):
                if seq.finish_step != finish_step:
                    continue
                freed += seq.prompt + seq.output
                steps_to_wait = finish_step - step
                if freed >= lacking:
                    break
            wait += steps_to_wait * engine.step_seconds(decodes, context, 0.0)
        after = engine.step_seconds(decodes + 1, context + work.input_tokens + output // 2, 0.0)
        return wait + prefill + output * after
