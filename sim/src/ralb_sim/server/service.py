"""One simulated pod's serving core: from a generation request to running sequences and back.

The HTTP modules parse and render; this takes what they parsed, draws the answers, queues the sequences, and hands back a `Job`
whose progress they render. Leaving a `Job` aborts what is still running, so a client that went away frees its blocks.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from ralb_sim import __version__, tokens
from ralb_sim.answers import Answer, AnswerOptions, Tool, compose
from ralb_sim.config import ServerConfig
from ralb_sim.engine import Engine, EngineRequest, KvLog
from ralb_sim.server.errors import ApiError, context_overflow, refused_parameter, unknown_model
from ralb_sim.server.generation import MAX_SEQUENCES, Generation
from ralb_sim.server.handoff import Handoffs
from ralb_sim.server.metrics import ServerMetrics
from ralb_sim.server.runner import EngineRunner
from ralb_sim.server.ticket import Ticket


@dataclass(slots=True, eq=False)
class Choice:
    """One choice of a response: its place, its sequence and the answer that is coming out."""

    index: int
    ticket: Ticket
    answer: Answer
    shown: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """The sequences of one HTTP request; use as a context manager.

    Attributes:
        model: Name to answer with, as asked.
        prompt_tokens: Prompt tokens of all prompts together.
        choices: In order of index.
        created: Unix time of arrival, seconds.
    """

    runner: EngineRunner
    model: str
    prompt_tokens: int
    block_size: int
    reasons: bool
    choices: list[Choice] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    created: int = field(default_factory=lambda: int(time.time()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.abort(choice.ticket for choice in self.choices)

    async def progress(self) -> AsyncIterator[tuple[Choice, int, int, bool]]:
        """Yield (choice, begin, end, finished) whenever a choice has output tokens `begin` to `end` to show, until all end.

        Raises:
            ApiError: 503 when the server gives up (shutting down).
        """
        pending = list(self.choices)
        while pending:
            self.changed.clear()
            for choice in list(pending):
                ticket = choice.ticket
                if ticket.failed:
                    raise ApiError(503, "The server is shutting down.", "ServiceUnavailableError")
                begin, end = choice.shown, ticket.emitted
                if end > begin or ticket.done:
                    choice.shown = end
                    if ticket.done:
                        pending.remove(choice)
                    yield choice, begin, end, ticket.done
            if pending:
                await self.changed.wait()

    async def finish(self) -> None:
        """Wait until every choice has ended.

        Raises:
            ApiError: 503 when the server gives up (shutting down).
        """
        async for _ in self.progress():
            pass

    @property
    def output_tokens(self) -> int:
        """Output tokens visible so far."""
        return sum(choice.ticket.emitted for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache, of the first choice of every prompt."""
        return max(self.choices[0].ticket.cached, 0)

    @property
    def reasoning_tokens(self) -> int:
        """Output tokens spent on reasoning."""
        return sum(choice.answer.reasoning_tokens for choice in self.choices)

    def usage(self, *, sparse: bool = False) -> dict[str, Any]:
        """Return usage as chat and text completions carry it; `sparse` drops null fields, as stream chunks do."""
        cached = self.cached_tokens
        created = self.prompt_tokens // self.block_size * self.block_size - cached
        details: dict[str, Any] = {
            "cached_tokens": cached,
            "created_cache_tokens": created if created or cached else None,
            "multimodal_tokens": None,
        }
        output = self.output_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + output,
            "completion_tokens": output,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens} if self.reasons else None,
        }
        if sparse:
            usage["prompt_tokens_details"] = {name: value for name, value in details.items() if value is not None}
            usage = {name: value for name, value in usage.items() if value is not None}
        return usage


class Service:
    """Everything a request handler needs.

    Args:
        config: The server's configuration.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.metrics = ServerMetrics(config)
        self.kv_log = KvLog() if config.kv_events is not None else None
        engine = Engine(config.engine, self.kv_log)
        self.runner = EngineRunner(engine, self.metrics, config.time_scale)
        self.handoffs = Handoffs(config.engine.block_size, config.time_scale, sidecar=config.sidecar)
        self.fingerprint = f"vllm-{__version__}-{secrets.token_hex(4)}"
        self.created = int(time.time())
        self._numbers = itertools.count()
        self._rng = random.Random(config.seed)

    def served(self, name: str) -> str:
        """Return the name to answer with for a model asked for; the empty name means the server's own.

        Raises:
            ApiError: 404 for a model this server does not serve.
        """
        if not name:
            return self.config.names[0]
        if name not in self.config.names:
            raise unknown_model(name, self.config.names)
        return name

    def submit(self, asked: Generation, received: int = 0) -> Job:
        """Queue what was asked; `received` prompt tokens are computed already, elsewhere.

        Raises:
            ApiError: 404 unknown model, 400 beyond the context window, 503 queue full.
        """
        model = self.served(asked.model)
        config = self.config
        reasons = config.reasoning_share > 0
        number_asked = len(asked.prompts) * asked.n
        if number_asked > MAX_SEQUENCES:
            raise refused_parameter("n", f"At most {MAX_SEQUENCES} sequences may be asked for at once.", number_asked)
        self._admit(number_asked)
        job = Job(self.runner, model, sum(map(tokens.count, asked.prompts)), config.engine.block_size, reasons)
        for prompt in asked.prompts:
            limit = self._limit(tokens.count(prompt), asked.max_tokens)
            for number in range(asked.n):
                answer = compose(prompt, self._options(asked, model, limit, asked.salt + number))
                ticket = self._ticket(prompt, answer, asked, limit, job.changed, received)
                job.choices.append(Choice(len(job.choices), ticket, answer))
        self.runner.add(choice.ticket for choice in job.choices)
        return job

    def pool(self, model: str, prompts: tuple[bytes, ...]) -> Job:
        """Queue pooling sequences (embeddings): prefill only.

        Raises:
            ApiError: As `submit`.
        """
        name = self.served(model)
        self._admit(len(prompts))
        job = Job(self.runner, name, sum(map(tokens.count, prompts)), self.config.engine.block_size, reasons=False)
        empty = Answer(b"", (), None, "stop")
        for prompt in prompts:
            self._limit(tokens.count(prompt), 0)
            ticket = self._ticket(prompt, empty, Generation(name, prompts), None, job.changed)
            job.choices.append(Choice(len(job.choices), ticket, empty))
        self.runner.add(choice.ticket for choice in job.choices)
        return job

    def _admit(self, sequences: int) -> None:
        """Refuse what would overfill the queue, before any work is spent on it."""
        if self.runner.open + sequences > self.config.max_queued:
            self.metrics.rejected()
            message = "The request queue is full; try again later."
            raise ApiError(503, message, "ServiceUnavailableError", headers={"Retry-After": "1"})

    def _limit(self, prompt: int, asked: int | None) -> int:
        room = self.config.max_model_len - prompt
        if room < (1 if asked is None else asked):
            raise context_overflow(self.config.max_model_len, prompt, asked)
        return room if asked is None else asked

    def _options(self, asked: Generation, model: str, limit: int, salt: int) -> AnswerOptions:
        tool = self._tool(asked)
        thinking = asked.thinking and asked.effort != "none"
        return AnswerOptions(
            model=model,
            output_median=self.config.output_median,
            output_sigma=self.config.output_sigma,
            limit=limit,
            reasoning_share=self.config.reasoning_share if thinking else 0.0,
            effort=asked.effort,
            min_tokens=min(asked.min_tokens, limit),
            ignore_eos=asked.ignore_eos and asked.max_tokens is not None,
            stop=asked.stop,
            json_schema=asked.json_schema,
            tool=tool,
            named_tool=asked.tool_choice.startswith("="),
            salt=salt,
        )

    def _tool(self, asked: Generation) -> Tool | None:
        if not asked.tools or asked.tool_choice == "none":
            return None
        if asked.tool_choice.startswith("="):
            return next(tool for tool in asked.tools if tool.name == asked.tool_choice[1:])
        if asked.tool_choice == "required" or self._rng.random() < self.config.tool_call_probability:
            return asked.tools[tokens.fingerprint(asked.prompts[0]) % len(asked.tools)]
        return None

    def _ticket(
        self,
        prompt: bytes,
        answer: Answer,
        asked: Generation,
        limit: int | None,
        changed: asyncio.Event,
        received: int = 0,
    ) -> Ticket:
        sequence = prompt + answer.tokens
        request = EngineRequest(
            id=f"r{next(self._numbers)}",
            prompt_tokens=tokens.count(prompt),
            output_tokens=answer.length,
            block_hashes=tokens.chain_hashes(sequence, self.config.engine.block_size),
            tokens=sequence if self.kv_log is not None else b"",
            received=received,
        )
        return Ticket(
            request=request,
            arrived=time.monotonic(),
            model=asked.model,
            truncated=answer.finish_reason == "length",
            n=asked.n,
            max_tokens=limit,
            changed=changed,
            quiet=not asked.stream,
        )


def new_id(prefix: str) -> str:
    """Return a fresh id such as `chatcmpl-9ad96d63bc3691ec`."""
    return f"{prefix}-{secrets.token_hex(8)}"
