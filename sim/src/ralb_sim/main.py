"""The `ralb-sim` command: one simulated pod.

Starts in a fraction of a second, writes a ready-file once it listens, and ends quickly on SIGTERM: it stops listening, gives
running requests a moment, then closes. A restart on the same port works at once.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import uvloop
from aiohttp import web

from ralb_sim.config import KvEventsConfig, MetricsDialect, ServerConfig
from ralb_sim.engine import EngineConfig
from ralb_sim.profiles import PROFILES, get_profile
from ralb_sim.server.app import build_app, drain
from ralb_sim.server.faults import FaultRule, parse_rules


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 after SIGTERM or SIGINT, 1 when the address cannot be bound, 2 for wrong arguments.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        config = _config(options)
        rules = parse_rules(orjson.loads(options.faults)) if options.faults else []
        if not 0 <= options.startup_delay <= 3600 or not 0 <= options.drain_timeout <= 3600:
            raise ValueError("--startup-delay and --drain-timeout must be between 0 and 3600 seconds")
    except ValueError as error:
        parser.error(str(error))
    try:
        return uvloop.run(_serve(config, rules, options))
    except OSError as error:
        print(f"ralb-sim: cannot listen on {options.host}:{options.port}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ralb-sim", description="A vLLM-like server without a GPU, for demos and tests."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=0, help="port; 0 takes a free one")
    add("--model", required=True, help="served model name, the one metrics carry")
    add("--alias", action="append", default=[], metavar="NAME", help="another served name; may be given often")
    add("--profile", default="llama-3-8b-h100", help=f"one of {', '.join(PROFILES)}")
    add("--time-scale", type=float, default=1.0, help="real seconds per simulated second; 0.1 is ten times faster")
    add("--ready-file", type=Path, help="written once listening: JSON with host, port and pid")
    add(
        "--reasoning-share",
        type=float,
        default=0.0,
        help="share of the output that is reasoning; 0: no reasoning model",
    )
    add("--output-median", type=int, help="median natural answer length, tokens (default: the profile's)")
    add("--output-sigma", type=float, default=0.7, help="spread of the log-normal answer length")
    add(
        "--tool-call-probability",
        type=float,
        default=0.0,
        help="share of tool_choice=auto requests answered with a call",
    )
    add("--max-num-seqs", type=int, help="sequences running at once (default: the profile's)")
    add("--max-num-batched-tokens", type=int, help="token budget of a step (default: the profile's)")
    add("--max-model-len", type=int, help="context window, tokens (default: the profile's, or what the cache holds)")
    add("--kv-tokens", type=int, help="KV cache capacity, tokens (default: the profile's)")
    add("--block-size", type=int, default=16, help="tokens per KV block")
    add("--no-prefix-caching", action="store_true", help="never share blocks")
    add("--max-queued", type=int, default=10_000, help="requests held at most before new ones get 503")
    add("--kv-events-port", type=int, default=0, help="publish KV events as vLLM does, on this port of --host")
    add("--kv-events-replay-port", type=int, default=0, help="port where missed events can be had again")
    add(
        "--kv-events-encoding",
        choices=("array", "map"),
        default="array",
        help="how events are written; newer vLLMs send maps",
    )
    add("--sidecar", choices=("yes", "no"), default="no", help="have prompts computed where x-prefiller-host-port says")
    add("--faults", metavar="JSON", help="faults in force from the start, as POST /admin/faults takes them")
    add("--speculative", type=int, default=0, metavar="N", help="tokens drafted per sequence and step; 0: none")
    add("--acceptance", type=float, default=0.7, help="chance of a drafted token to be accepted after those before it")
    add(
        "--lora",
        action="append",
        default=[],
        metavar="NAME",
        help="a LoRA adapter, also a served name; may be given often",
    )
    add("--max-loras", type=int, default=4, help="adapters the engine holds at once")
    add(
        "--metrics-dialect",
        choices=[str(dialect) for dialect in MetricsDialect],
        default="vllm",
        help="whose metrics page to show",
    )
    add("--startup-delay", type=float, default=0.0, help="real seconds before listening, as if loading weights")
    add("--drain-timeout", type=float, default=1.0, help="seconds running requests get after SIGTERM")
    add("--seed", type=int, default=0, help="seed of faults and tool calls")
    return parser


def _config(options: argparse.Namespace) -> ServerConfig:
    profile = get_profile(options.profile)
    given = {
        name: getattr(options, name)
        for name in ("kv_tokens", "max_num_seqs", "max_num_batched_tokens")
        if getattr(options, name) is not None
    }
    engine = replace(
        EngineConfig.of(profile),
        block_size=options.block_size,
        prefix_caching=not options.no_prefix_caching,
        speculative=options.speculative,
        acceptance=options.acceptance,
        seed=options.seed,
        **given,
    )
    held = engine.kv_tokens // engine.block_size * engine.block_size
    return ServerConfig(
        names=(
            options.model,
            *dict.fromkeys(name for name in (*options.alias, *options.lora) if name != options.model),
        ),
        profile=profile,
        engine=engine,
        max_model_len=options.max_model_len or min(profile.max_model_len, held),
        time_scale=options.time_scale,
        reasoning_share=options.reasoning_share,
        output_median=options.output_median or profile.output_median,
        output_sigma=options.output_sigma,
        tool_call_probability=options.tool_call_probability,
        max_queued=options.max_queued,
        seed=options.seed,
        adapters=tuple(dict.fromkeys(options.lora)),
        max_loras=options.max_loras,
        metrics=MetricsDialect(options.metrics_dialect),
        sidecar=options.sidecar == "yes",
        kv_events=_kv_events(options),
    )


def _kv_events(options: argparse.Namespace) -> KvEventsConfig | None:
    if not options.kv_events_port:
        return None
    host = f"[{options.host}]" if ":" in options.host else options.host
    return KvEventsConfig(
        options.kv_events_port, options.kv_events_replay_port, host, options.kv_events_encoding == "map"
    )


async def _serve(config: ServerConfig, rules: list[FaultRule], options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.startup_delay and await _stopped_within(stop, options.startup_delay):
        return 0
    app = build_app(config, rules)
    # Handlers end when their client goes away: that is what frees a dead client's blocks.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, options.host, options.port, reuse_address=True, backlog=1024)
        await site.start()
        host, port = runner.addresses[0][:2]
        if options.ready_file:
            _write_ready(options.ready_file, host, port)
        print(
            f"ralb-sim: {config.names[0]} ({config.profile.name}) on http://{host}:{port}", file=sys.stderr, flush=True
        )
        await stop.wait()
        await site.stop()
        await drain(app, options.drain_timeout)
    finally:
        await runner.cleanup()
    return 0


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _write_ready(path: Path, host: str, port: int) -> None:
    """Write the ready-file so that a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"host": host, "port": port, "pid": os.getpid()}))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
