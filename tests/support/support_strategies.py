"""One pool under one strategy, asked and answered step by step."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from ralb.v1.snapshot_pb2 import Balancing, Model
from ralb_extproc.place import Ask, Dice, Order, PodSample, PodTable, Served, charge, place, pool_of
from ralb_extproc.place.strategy import Strategy

POOL = "ns/pool"
ASK = Ask(input_tokens=1000, output_tokens=100)


class OnePool:
    """Pods ``10.0.0.<i>:80`` of a pool; time stands still unless ``now`` is moved."""

    def __init__(
        self,
        strategy: str,
        count: int,
        *,
        seed: int = 7,
        cap: int = 0,
        adapters: Iterable[str] = (),
        **settings: object,
    ) -> None:
        self.balancing = Balancing(strategy=strategy, **settings)  # type: ignore[arg-type]
        self.model = Model(name="m", adapters=adapters)
        self.cap = cap
        self.table = PodTable()
        self.dice = Dice(seed)
        self.now = 1000.0
        self.numbers = 0
        self.open: dict[str, list[str]] = {}
        self.have(range(count))

    def have(self, numbers: Iterable[int]) -> None:
        """The pods there are from now on."""
        addresses = [address(number) for number in numbers]
        said = {"balancing": self.balancing, "model": self.model, "concurrency_per_replica": self.cap}
        pool = pool_of(POOL, addresses, **said)
        self.table.update([pool], self.now)

    def slot(self, number: int) -> int:
        slot = self.table.slot(POOL, address(number))
        assert slot is not None
        return slot

    def say(self, number: int, waiting: float = 0, running: float = 0, kv: float = 0.0, **fields: object) -> None:
        """A reading of a pod."""
        sample = PodSample(self.now, waiting, running, kv, **fields)  # type: ignore[arg-type]
        self.table.observe(self.slot(number), sample, self.now)

    def breaks(self, number: int) -> None:
        """A request failed on a pod: it is not to be tried for a while."""
        self.table.fail(self.slot(number), self.now)

    def works(self, number: int) -> None:
        """The pod served a request again."""
        self.table.succeed(self.slot(number), self.now)

    def order(self, ask: Ask = ASK, want: int = 4, **fields: object) -> Order:
        """Where a request would go; changes nothing."""
        return place(self.table, POOL, replace(ask, **fields), self.now, self.dice, want)  # type: ignore[arg-type]

    def first(self, ask: Ask = ASK, **fields: object) -> int:
        """Number of the pod a request would go to."""
        return number_of(self.order(ask, **fields).addresses[0])

    @property
    def strategy(self) -> Strategy:
        view = self.table.view(POOL)
        assert view is not None
        return self.table.strategy(view)

    def strategy_key(self, **fields: object) -> str:
        """What Envoy would be given to hash."""
        return self.table.hash_key(POOL, replace(ASK, **fields), self.now)  # type: ignore[arg-type]

    def send(self, ask: Ask = ASK, **fields: object) -> int:
        """Send a request; number of its pod."""
        ask = replace(ask, **fields)  # type: ignore[arg-type]
        order = self.order(ask)
        self.numbers += 1
        name = f"r{self.numbers}"
        charge(self.table, POOL, name, order, ask, self.now)
        self.open.setdefault(order.addresses[0], []).append(name)
        return number_of(order.addresses[0])

    def answer(self, number: int, seconds: float = 1.0, tokens: int = 100) -> None:
        """The oldest request of a pod is answered."""
        self.table.finish(self.open[address(number)].pop(0))
        self.table.answered(self.slot(number), Served(seconds, seconds / 10, tokens), self.now)

    def ask_and_answer(self, ask: Ask = ASK, seconds: float = 1.0, **fields: object) -> int:
        """Send a request that is answered before the next; number of its pod."""
        number = self.send(ask, **fields)
        self.answer(number, seconds)
        return number

    def shares(self, times: int, **fields: object) -> Counter[int]:
        """How often each pod is taken by requests of which each is answered before the next."""
        return Counter(self.ask_and_answer(**fields) for _ in range(times))


def address(number: int) -> str:
    return f"10.0.{number // 200}.{number % 200}:80"


def number_of(where: str) -> int:
    _, _, high, low = where.partition(":")[0].split(".")
    return int(high) * 200 + int(low)
