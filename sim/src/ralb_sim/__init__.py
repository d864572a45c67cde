"""A vLLM-like server for demos and tests, and the engine model behind it.

What it is for: our own tests, the demo and (later) offline studies need pods that queue, batch, cache prefixes, pre-empt,
report metrics and fail the way real ones do, on a machine without a GPU.

What may not enter: anything of the request path or the operator (`ralb_extproc`, `ralb_operator`); a simulator that shares
code with what it tests would agree with its mistakes.

Rooms: `engine` is pure and clock-free (a step model, a scheduler, a paged cache); `tokens` and `answers` turn requests into
token sequences and deterministic answers; `server` is the HTTP edge in real time; `main` is the command.
"""

__version__ = "0.32.0"
"""Version of vLLM whose answers and metrics are imitated; also what `/version` says."""
