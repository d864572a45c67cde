"""The Python and process families at the top of every page."""

import functools
import gc
import os
import platform
import resource
import time

from ralb_sim.server.exposition import head, labels, number

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STARTED = time.time()
_GC = (
    ("python_gc_objects_collected_total", "Objects collected during gc", "collected"),
    ("python_gc_objects_uncollectable_total", "Uncollectable objects found during GC", "uncollectable"),
    ("python_gc_collections_total", "Number of times this generation was collected", "collections"),
)


@functools.cache
def _platform_info() -> str:
    major, minor, patch = platform.python_version_tuple()
    own = labels(
        implementation=platform.python_implementation(),
        major=major,
        minor=minor,
        patchlevel=patch,
        version=platform.python_version(),
    )
    return head("python_info", "Python platform information", "gauge") + f"python_info{own} 1.0\n"


def render(out: list[str]) -> None:
    """Append the families; memory and descriptors only where /proc has them."""
    for name, text, key in _GC:
        out.append(head(name, text, "counter"))
        for generation, stats in enumerate(gc.get_stats()):
            out.append(f"{name}{labels(generation=str(generation))} {number(stats[key])}\n")
    out.append(_platform_info())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rows: list[tuple[str, str, str, float]] = []
    try:
        with open("/proc/self/statm", "rb") as file:
            virtual, resident = (int(field) * _PAGE for field in file.read().split()[:2])
        rows.append(("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", virtual))
        rows.append(("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", resident))
        descriptors = len(os.listdir("/proc/self/fd"))
    except OSError:
        descriptors = 0
    rows.append(
        ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge", _STARTED)
    )
    spent = usage.ru_utime + usage.ru_stime
    rows.append(("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter", spent))
    if descriptors:
        rows.append(("process_open_fds", "Number of open file descriptors.", "gauge", descriptors))
    rows.append(
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            "gauge",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
    )
    for name, text, kind, value in rows:
        out.append(head(name, text, kind))
        out.append(f"{name} {number(value)}\n")
