"""What pods say about themselves: their metrics pages, fetched, read and put into the pod table.

    scraper = Scraper(pods)
    scraper.update(snapshot.pools)      # after pods.update, with every snapshot
    await scraper.stop()

May not enter: what the numbers mean for a decision (``place``).
"""

from ralb_extproc.metrics.exposition import parse
from ralb_extproc.metrics.http import FetchError, Kind
from ralb_extproc.metrics.pace import Pace
from ralb_extproc.metrics.scraper import Scraper
from ralb_extproc.metrics.series import SGLANG, TENSORRT_LLM, VLLM, Dialect, dialect

__all__ = ["SGLANG", "TENSORRT_LLM", "VLLM", "Dialect", "FetchError", "Kind", "Pace", "Scraper", "dialect", "parse"]
