"""
How long the write-ahead log of a SQLite file is, which Python's driver has no way to ask.

Source of the format: https://www.sqlite.org/fileformat2.html#walformat.
"""

import os
import struct
from pathlib import Path

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24

_PAGE_SIZE = struct.Struct(">I")


class WriteAheadLog:
    """
    The log beside a database file, open for reading; nothing locks it, so this disturbs nobody.

    Args:
        path: The database file. Its log is there, and stays, as long as somebody has the database open.

    Raises:
        OSError: There is no log.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.with_name(f"{path.name}-wal").open("rb", buffering=0)

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

    def holds(self, pages: int) -> bool:
        """
        Whether at least so many pages were written to it since it was last begun anew.

        It is then written over from its beginning, under another mark, which all frames of before lack.
        """
        number = self._file.fileno()
        header = os.pread(number, HEADER_BYTES, 0)
        if len(header) < HEADER_BYTES:  # Nothing was written yet.
            return False
        (page_bytes,) = _PAGE_SIZE.unpack_from(header, 8)
        place = HEADER_BYTES + (pages - 1) * (FRAME_HEADER_BYTES + page_bytes)
        return os.pread(number, FRAME_HEADER_BYTES, place)[8:16] == header[16:24]
