"""The gateway's own placement as policies of the offline simulator.

Stands between rooms that may not import each other: the simulator takes policies as values, the processor knows of no simulator.
"""

from ralb_sim.offline.policy import PolicyFactory


def ours() -> dict[str, PolicyFactory]:
    """Name on the command line -> how to make the policy."""
    return {}
