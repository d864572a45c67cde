"""Header blocks of the peer, decoded (RFC 7541), and remembered where equal bytes mean equal headers.

Trap: a block may change the decoder's table, so its bytes mean the same again only while there is no table. We ask for that in
our settings; until the peer follows, and if it does not, every block is decoded.
"""

from collections.abc import Mapping
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from ralb_extproc.wire.frames import ErrorCode, PeerError

MAX_BLOCK: Final = 64 * 1024
_KEPT: Final = 1024
_MAX_KEPT_BYTES: Final = 4096


class Blocks:
    """The decoder of one connection; it must see every block, in order."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_BLOCK)
        self._known: dict[bytes, Mapping[str, str]] = {}

    def decode(self, block: bytes) -> Mapping[str, str]:
        """Headers by name, not to be changed; of a repeated name the last value.

        Raises:
            PeerError: the block is broken or too large, which leaves the connection without a common state.
        """
        decoder = self._decoder
        tableless = decoder.header_table.maxsize == 0
        if tableless:
            known = self._known.get(block)
            if known is not None:
                return known
        try:
            pairs = decoder.decode(block, raw=True)
        except HPACKError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, f"broken header block: {error}") from error
        headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in pairs}
        if tableless and decoder.header_table.maxsize == 0 and len(block) <= _MAX_KEPT_BYTES:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[block] = headers
        return headers
