"""Which pods are in which pool."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ralb_api.objects import ModelPool
from ralb_api.problems import ObjectKey
from ralb_operator.compile.envoy.endpoints import join_address
from ralb_operator.view import Pod


@dataclass(frozen=True, slots=True)
class PoolEndpoints:
    """The pods of a pool.

    Attributes:
        ready: (address, pod name), sorted by address, no address twice.
        total: pods selected, ready or not.
    """

    ready: tuple[tuple[str, str], ...]
    total: int


def endpoints(pools: Mapping[ObjectKey, ModelPool], pods: Iterable[Pod]) -> dict[ObjectKey, PoolEndpoints]:
    """Endpoints of every pod-backed pool.

    A pool only looks at pods that carry the rarest of its labels, found by index: 500 pools and 5,000 pods take
    milliseconds, not 2.5 million comparisons.
    """
    label_names: dict[str, set[str]] = defaultdict(set)
    for key, pool in pools.items():
        if pool.spec.backend.pods is not None:
            label_names[key.namespace].update(pool.spec.backend.pods.selector.match_labels)
    by_label: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
    for pod in pods:
        for name in label_names.get(pod.namespace, ()):
            if (value := pod.labels.get(name)) is not None:
                by_label[pod.namespace, name, value].append(pod)
    found = {}
    for key, pool in pools.items():
        backend = pool.spec.backend.pods
        if backend is None:
            continue
        wanted = backend.selector.match_labels.items()
        candidates = min((by_label.get((key.namespace, *label), []) for label in wanted), key=len)
        chosen = [pod for pod in candidates if wanted <= pod.labels.items()]
        ready = {
            join_address(pod.ip, pod.port or backend.port): pod.name for pod in _by_name(chosen) if pod.ready and pod.ip
        }
        found[key] = PoolEndpoints(tuple(sorted(ready.items())), len(chosen))
    return found


def _by_name(pods: Iterable[Pod]) -> list[Pod]:
    # Of two pods with one address the later name wins, whatever order they came in.
    return sorted(pods, key=lambda pod: pod.name)
