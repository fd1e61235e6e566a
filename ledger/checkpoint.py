"""
Checkpoints: signed statements of how many events a log has and what their Merkle root is, to be kept elsewhere.

A chain of hashes shows that nothing in the middle was altered. That a tail was cut, a run vanished, or an old file
was put back, only somebody can tell who remembers what was there before; a checkpoint is such a memory.

    run-ledger/dev/9f1c2ab34d5e6f70       origin: the environment and the epoch of its log
    20852                                 size: events, in the order of their positions
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      Merkle root

    — run-ledger/dev/9f1c2ab34d5e6f70 Az3grlgtzPICa5OS8np...    key id and Ed25519 signature of the three lines

A file holds one such note for each environment, with an empty line between two. One key signs them all; in each
note it goes by the name of the origin.

Source: c2sp.org/tlog-checkpoint and c2sp.org/signed-note; RFC 6962 for the root.
"""

import base64
import binascii
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ledger.errors import BadCheckpoint
from ledger.merkle import HASH_BYTES
from ledger.verify import Claim, origin

ED25519 = b"\x01"  # The type of signature, as it stands before a public key.
SIGNATURES_MAX = 16  # signatures of one note that are read; witnesses may add theirs
FILE_BYTES_MAX = 10_000_000  # bytes of a file of checkpoints: some 30,000 environments

_ORIGIN = re.compile(r"run-ledger/([a-z][a-z0-9-]{0,31})/([^\s/+]{1,64})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_VERIFIER_KEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Note:
    """
    One signed checkpoint.

    Attributes:
        claim: What it says.
        text: The lines that were signed.
        signatures: Name, key id and signature of each line below.
    """

    claim: Claim
    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]


class SigningKey:
    """A private key. It never goes into the database: who can alter the log must not be able to sign it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """
        Read a key from a PEM file.

        Raises:
            BadCheckpoint: It holds no Ed25519 key, or others may read it.
        """
        try:
            mode = path.stat().st_mode
            pem = path.read_bytes()
        except OSError as error:
            raise BadCheckpoint(f"cannot read the key {path}: {error.strerror}") from error
        if stat.S_IMODE(mode) & 0o077:
            raise BadCheckpoint(f"others may read the key {path}; run chmod 600 on it, or make a new key")
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise BadCheckpoint(f"{path} is no private key in PEM form without a password") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise BadCheckpoint(f"{path} is no Ed25519 key")
        return cls(private)

    @classmethod
    def load_or_make(cls, path: Path) -> "SigningKey":
        """Read the key, or make one that only this user may read."""
        if not path.exists():
            private = Ed25519PrivateKey.generate()
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            try:
                write_new(path, pem, 0o600)
            except FileExistsError:
                pass  # Another process was faster.
            except OSError as error:
                raise BadCheckpoint(f"cannot write the key {path}: {error.strerror}") from error
        return cls.load(path)

    def sign(self, claim: Claim) -> str:
        """The signed note of what is claimed."""
        text = note_text(claim)
        name = origin(claim.environment, claim.epoch)
        signature = key_id(name, self.public) + self._private.sign(text.encode())
        return f"{text}\n— {name} {_base64(signature)}\n"


def note_text(claim: Claim) -> str:
    """The lines that are signed."""
    return f"{origin(claim.environment, claim.epoch)}\n{claim.size}\n{_base64(claim.root)}\n"


def key_id(name: str, public: bytes) -> bytes:
    """Four bytes that tell keys apart."""
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def verifier_key(name: str, public: bytes) -> str:
    """A public key under a name, as tools for signed notes read it."""
    return f"{name}+{key_id(name, public).hex()}+{_base64(ED25519 + public)}"


def read_verifier_key(text: str) -> bytes:
    """
    The public key in the first line of *text*; one key goes by a name in every environment.

    Raises:
        BadCheckpoint: There is none, or its parts do not fit together.
    """
    first = text.strip().splitlines()[:1]
    found = _VERIFIER_KEY.fullmatch(first[0].strip()) if first else None
    if found is None:
        raise BadCheckpoint("this is no public key; one looks like run-ledger/dev/9f1c...+c74f20a3+ARpc2QcU...")
    raw = _decoded(found[3])
    if raw is None or len(raw) != 33 or raw[:1] != ED25519:
        raise BadCheckpoint("the public key is no Ed25519 key")
    if key_id(found[1], raw[1:]).hex() != found[2]:
        raise BadCheckpoint("the public key was damaged: its key id is not that of its name and key")
    return raw[1:]


def read_notes(text: str) -> list[Note]:
    """
    The checkpoints of a file.

    Raises:
        BadCheckpoint: It is no file of checkpoints, or was cut, or holds something twice.
    """
    lines = text.split("\n")
    if lines[-1] != "":
        raise BadCheckpoint("the checkpoint was cut: its last line does not end")
    notes: list[Note] = []
    place = 0
    while place < len(lines) - 1:
        if notes:
            if lines[place] != "":
                raise BadCheckpoint(f"line {place + 1} of the checkpoint is neither a signature nor empty")
            place += 1
        note, place = _read_note(lines, place)
        if any(note.claim.environment == other.claim.environment for other in notes):
            raise BadCheckpoint(f"the checkpoint speaks twice of the environment {note.claim.environment}")
        notes.append(note)
    if not notes:
        raise BadCheckpoint("the checkpoint is empty")
    return notes


def check(note: Note, public: bytes) -> Claim:
    """
    What a note says, once its signature was checked.

    Raises:
        BadCheckpoint: This key did not sign it.
    """
    claim = note.claim
    name = origin(claim.environment, claim.epoch)
    mine = key_id(name, public)
    signatures = [signature for who, which, signature in note.signatures if (who, which) == (name, mine)]
    if not signatures:
        raise BadCheckpoint(
            f"the checkpoint of {claim.environment} was signed with another key; name the right one "
            "with --public-key"
        )
    for signature in signatures:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, note.text.encode())
        except InvalidSignature as error:
            raise BadCheckpoint(
                f"the signature of the checkpoint of {claim.environment} is wrong: somebody altered it"
            ) from error
    return claim


def check_all(text: str, public: bytes) -> list[Claim]:
    """
    What a file of checkpoints says, once every signature was checked.

    Raises:
        BadCheckpoint: Something in it cannot be trusted.
    """
    return [check(note, public) for note in read_notes(text)]


def join(notes: Iterable[str]) -> str:
    """A file of checkpoints."""
    return "\n".join(notes)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """
    Write a file that does not exist yet, and have it on the disk.

    Raises:
        FileExistsError: It exists; nothing was changed.
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read_note(lines: list[str], start: int) -> tuple[Note, int]:
    head = lines[start : start + 4]
    if len(head) < 4:
        raise BadCheckpoint("the checkpoint was cut: a note has three lines, an empty one and a signature")
    named, size, root = _ORIGIN.fullmatch(head[0]), _SIZE.fullmatch(head[1]), _decoded(head[2])
    if named is None:
        raise BadCheckpoint(f"line {start + 1} of the checkpoint names no log of Run Ledger")
    if size is None:
        raise BadCheckpoint(f"line {start + 2} of the checkpoint is no size")
    if root is None or len(root) != HASH_BYTES:
        raise BadCheckpoint(f"line {start + 3} of the checkpoint is no Merkle root")
    if head[3] != "":
        raise BadCheckpoint(f"line {start + 4} of the checkpoint is not empty; a note has three lines")
    place = start + 4
    signatures: list[tuple[str, bytes, bytes]] = []
    while place < len(lines) and lines[place] != "":
        signed = _SIGNATURE.fullmatch(lines[place])
        raw = None if signed is None else _decoded(signed[2])
        if signed is None or raw is None or len(raw) <= 4 or len(signatures) == SIGNATURES_MAX:
            raise BadCheckpoint(f"line {place + 1} of the checkpoint is no signature")
        signature = signed[1], raw[:4], raw[4:]
        if signature in signatures:
            raise BadCheckpoint(f"line {place + 1} of the checkpoint is there twice")
        signatures.append(signature)
        place += 1
    if not signatures:
        raise BadCheckpoint(f"the checkpoint was cut: the note at line {start + 1} has no signature")
    claim = Claim(named[1], named[2], int(head[1]), root)
    return Note(claim, note_text(claim), tuple(signatures)), place


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decoded(text: str) -> bytes | None:
    """Base 64 in its one canonical spelling, None for anything else."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if _base64(raw) == text else None
