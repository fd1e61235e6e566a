"""
A copy of a SQLite file that others may be writing to meanwhile.

`VACUUM INTO` reads the database as it stands at one moment, behind whoever writes, and writes each page anew: what
was erased, or deleted, is in no free page of the copy. SQLite does not sync what it writes there, so that is done
here. The copy gets its name last, so a file of that name is a whole one.
"""

import os
from pathlib import Path

from ledger.sqlite import copy_file

_UNFINISHED = ".unfinished"  # The copy is called so until it is whole.


def back_up(database: Path, out: Path) -> None:
    """
    Copy a database file, durably.

    Args:
        database: The file; nobody needs to close it.
        out: What the copy is to be called, in a folder that exists.

    Raises:
        FileExistsError: There is such a file; nothing was changed.
        OSError: The copy cannot be written.
        Unavailable: The database cannot be read to its end, or there is no room for the copy.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists")
    unfinished = out.with_name(out.name + _UNFINISHED)
    unfinished.unlink(missing_ok=True)  # Of a copy that was broken off.
    try:
        # Whoever may not read the database may not read the copy either.
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, database.stat().st_mode & 0o777))
        copy_file(database, unfinished)
        _sync(unfinished)
        os.link(unfinished, out)  # Never over a file that came in between.
        _sync(out.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
