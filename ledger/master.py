"""
The master secret, from which every key's own is derived.

`RUN_LEDGER_SECRET` says it, the same on all nodes; else it lies in a file beside the SQLite file, which only its
owner can read and which is made together with the first key. It is never in the database, so a copy of that opens
nothing.
"""

import os
import secrets
import stat
import tempfile
from pathlib import Path

MASTER_BYTES = 32
SECRET_CHARACTERS_MIN = 32  # characters of RUN_LEDGER_SECRET: 128 bits where they are hexadecimal digits

_SUFFIX = ".secret"
_OTHERS = 0o077


class UnusableSecret(Exception):
    """The file with the master secret cannot be used; the text says why and what to do."""


def secret_file(database: Path) -> Path:
    """Where the master secret of a SQLite file lies."""
    return database.with_name(database.name + _SUFFIX)


def load_master(secret: str | None, database: Path | None) -> bytes:
    """
    The master secret; a file for it is made if there is none.

    Args:
        secret: What RUN_LEDGER_SECRET says, None where it is not set.
        database: The SQLite file, None for another engine.

    Raises:
        UnusableSecret: There is none and no place for one, or others may read its file, or it holds none.
    """
    if secret is not None:
        return secret.encode()
    if database is None:
        raise UnusableSecret(
            "set RUN_LEDGER_SECRET, the same on all nodes (openssl rand -hex 32 makes one); "
            "only beside a SQLite file one is made by itself"
        )
    path = secret_file(database)
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise UnusableSecret(
            f"cannot use {path}: {error.strerror}; mend that, or set RUN_LEDGER_SECRET instead"
        ) from error


class Master:
    """
    The master secret of a process that only uses it: read when it is first needed, and never made.

    Args:
        secret: What RUN_LEDGER_SECRET says, None where it is not set.
        database: The SQLite file, None for another engine.
    """

    def __init__(self, secret: str | None, database: Path | None) -> None:
        self._known = None if secret is None else secret.encode()
        self._path = None if database is None else secret_file(database)

    def read(self) -> bytes:
        """
        The secret.

        Raises:
            UnusableSecret: There is none, or it cannot be used.
        """
        if self._known is None:
            if self._path is None:
                raise UnusableSecret("RUN_LEDGER_SECRET is not set")
            try:
                self._known = _read(self._path)
            except OSError as error:
                raise UnusableSecret(f"cannot read {self._path}: {error.strerror}") from error
        return self._known


def _make(path: Path) -> None:
    """Write a new secret whole, then give it its name; of two processes that do so at once the first one wins."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # Readable by its owner only.
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(MASTER_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise UnusableSecret(f"others may use {path}, its mode is {mode:o}; run: chmod 600 {path}")
        text = file.read(4 * MASTER_BYTES).strip()
    if len(text) < SECRET_CHARACTERS_MIN:
        raise UnusableSecret(
            f"{path} holds no secret; put it back from a backup, or remove it: a new one is made with the next key"
        )
    return text
