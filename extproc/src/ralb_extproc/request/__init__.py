"""From bytes to a ``Request``: decode, check what RALB needs, leave everything else alone.

Strict about the fields that decide routing, tolerant about the rest: a field nobody here knows is passed on as it came, for
the model server to judge. Whatever the bytes, the outcome is a ``Request`` or a ``ClientError``. May not enter: the
snapshot, decisions, anything asynchronous.
"""

from ralb_extproc.request.reader import PATHS, client_headers, parse, session_of

__all__ = ["PATHS", "client_headers", "parse", "session_of"]
