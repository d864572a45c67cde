"""Traffic for a running gateway: a steady load whose every answer is checked completely."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from support_net import wait_until


@dataclass(slots=True)
class Answer:
    """One request of a load and what became of it; times in seconds since the load began.

    Attributes:
        error: what the client saw go wrong, "" for nothing.
        broken: the answer had begun when it broke off.
        connected: an answer's headers arrived.
    """

    number: int
    stream: bool
    wanted: int
    sent: float
    done: float = 0.0
    status: int = 0
    error: str = ""
    broken: bool = False
    connected: bool = False
    code: str = ""
    model: str = ""
    pool: str = ""
    tier: str = ""
    attempts: int = 0
    decision: str = ""
    retry_after: str = ""
    tokens: int = 0

    @property
    def good(self) -> bool:
        return not self.error


@dataclass(slots=True)
class Load:
    """Open-loop chat traffic at a fixed rate, JSON and SSE in turn, every answer checked completely.

    Attributes:
        models: pool id -> model name; an answer's model must be the one of the pool that its header names.
        rate: requests per second.
        tokens: answer lengths in turn.
        limit: seconds after which a request counts as hung.
    """

    url: str
    models: Mapping[str, str]
    rate: float = 100.0
    tokens: tuple[int, ...] = (4, 8, 12)
    limit: float = 20.0
    model: str = "auto"
    answers: list[Answer] = field(default_factory=list)
    started: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False
    _session: aiohttp.ClientSession | None = None

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    @property
    def bad(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.good]

    async def run(self, seconds: float) -> None:
        """Send for ``seconds`` and wait for all answers."""
        async with self.going(seconds):
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def going(self, at_most: float) -> AsyncIterator["Load"]:
        """Traffic while the body runs, for ``at_most`` seconds; all answers are there afterwards."""
        self.started = self.started or time.monotonic()
        self._stopping = False
        timeout = aiohttp.ClientTimeout(total=self.limit)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._session:
            sender = asyncio.create_task(self._send(at_most))
            try:
                yield self
            finally:
                self._stopping = True
                await sender
                await asyncio.gather(*self._tasks)

    async def _send(self, seconds: float) -> None:
        begin = time.monotonic()
        for number in range(int(self.rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / self.rate - time.monotonic()))
            if self._stopping:
                return
            self.ask(stream=number % 2 == 1, wanted=self.tokens[number % len(self.tokens)])

    def ask(self, *, stream: bool, wanted: int, model: str = "") -> Answer:
        """Send one request."""
        answer = Answer(len(self.answers), stream, wanted, self.now)
        self.answers.append(answer)
        task = asyncio.create_task(self._ask(answer, model or self.model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answer

    async def _ask(self, answer: Answer, model: str) -> None:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"Number {answer.number}: name a colour."}],
            "max_tokens": answer.wanted,
            "min_tokens": answer.wanted,
            "ignore_eos": True,
        }
        if answer.stream:
            body["stream"] = True
            if model != self.model:  # no policy that has usage put in
                body["stream_options"] = {"include_usage": True}
        assert self._session is not None
        try:
            async with self._session.post(f"{self.url}/v1/chat/completions", json=body) as response:
                answer.connected = True
                _note(answer, response)
                if response.status != 200:
                    text = await response.text()
                    answer.error = f"status {response.status}: {text[:300]}"
                    answer.code = str(json.loads(text)["error"]["code"])
                elif answer.stream:
                    await self._read_stream(answer, response)
                else:
                    self._check(answer, json.loads(await response.read()))
        except TimeoutError:
            answer.error = "hung"
        except (aiohttp.ClientError, ConnectionError, ValueError, KeyError) as error:
            answer.error = answer.error or f"{type(error).__name__}: {error}"[:300]
            answer.broken = answer.connected
        answer.done = self.now

    async def _read_stream(self, answer: Answer, response: aiohttp.ClientResponse) -> None:
        events = [line[6:] async for line in response.content if line.startswith(b"data: ")]
        if not events or events[-1].strip() != b"[DONE]":
            answer.error, answer.broken = "the stream ended without [DONE]", True
            return
        chunks = [json.loads(event) for event in events[:-1]]
        self._check(answer, chunks[-1], {chunk["model"] for chunk in chunks})

    def _check(self, answer: Answer, last: Mapping[str, Any], models: Iterable[str] = ()) -> None:
        answer.model = last["model"]
        answer.tokens = last["usage"]["completion_tokens"]
        names = {answer.model, *models}
        if names != {self.models.get(answer.pool)}:
            answer.error = f"answered by {sorted(names)}, but pool {answer.pool} serves {self.models.get(answer.pool)}"
        elif answer.tokens != answer.wanted:
            answer.error = f"{answer.tokens} tokens instead of {answer.wanted}"


def _note(answer: Answer, response: aiohttp.ClientResponse) -> None:
    headers = response.headers
    answer.status = response.status
    answer.pool = headers.get("x-ralb-pool", "")
    answer.tier = headers.get("x-ralb-tier", "")
    answer.attempts = int(headers.get("x-ralb-attempts", "0"))
    answer.decision = headers.get("x-ralb-decision-id", "")
    answer.retry_after = headers.get("retry-after", "")


async def wait_for(load: Load, condition: Callable[[Answer], bool], count: int = 1, limit: float = 15.0) -> None:
    """Wait until so many further answers of a load meet a condition."""
    have = len(load.answers)
    await wait_until(
        lambda: sum(bool(answer.done and condition(answer)) for answer in load.answers[have:]) >= count,
        limit,
        interval=0.05,
        what=f"{count} such answers",
    )
