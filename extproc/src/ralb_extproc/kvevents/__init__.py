"""What engines publish about their KV caches (ZeroMQ, vLLM's format), put into the prefix index.

    view = KvView(pods)
    subscriber = Subscriber(pods, view)
    subscriber.update(snapshot.pools)   # after pods.update, with every snapshot
    view.settled(settled, now)          # with every outcome
    await subscriber.stop()

Imported only where a pool has events: pyzmq and msgpack are not needed otherwise. May not enter: what hits are worth (``place``).
"""

from ralb_extproc.kvevents.shown import KvCollector, rows
from ralb_extproc.kvevents.subscriber import Subscriber
from ralb_extproc.kvevents.view import KvView

__all__ = ["KvCollector", "KvView", "Subscriber", "rows"]
