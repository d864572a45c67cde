"""The offline simulator: a trace, N pods, one or more router replicas and a placement policy, in event time.

It answers which policy places better, thousands of requests per second of real time. The pods follow the same scheduler rules
as ``ralb_sim.engine`` but leap over steps in which nothing changes. May not enter: wall clocks, HTTP, asyncio, and any import
of the processor: policies, ours too, come in through ``policy.Policy``.
"""
