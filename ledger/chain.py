"""
The hash chain of a run: what makes a later change of its history visible.

    commitment = SHA-256(salt || data)
    hash       = SHA-256("run-ledger/event/1" || 0x00 || field*)
    field      = 32-bit big-endian length in bytes || bytes

The fields, in this order: the previous hash of the run (32 zero bytes before version 1), environment name, run
id, version, position, type, actor, attempt, occurred_at (empty when unknown), recorded_at, headers, commitment.
Text is UTF-8, whole numbers are decimal ASCII, moments are microseconds since 1970-01-01 UTC, hashes are raw.

The format is on disk for ever. `tests/ledger/chain-vectors.jsonl` holds test vectors; a change needs a new domain
tag. The salt keeps a short value from being guessed out of its commitment once the value was erased.
"""

import struct
from functools import lru_cache
from hashlib import sha256

from projections.times import Microseconds

DOMAIN = b"run-ledger/event/1\0"
GENESIS = bytes(32)
SALT_BYTES = 16

_length = struct.Struct(">I").pack


def commitment(salt: bytes, data: str) -> bytes:
    """What an event's hash says about its data: 32 bytes, useless without the salt."""
    return sha256(salt + data.encode()).digest()


def event_hash(
    previous: bytes,
    environment: str,
    run_id: str,
    version: int,
    position: int,
    event_type: str,
    actor: str,
    attempt: int,
    occurred_at: Microseconds | None,
    recorded_at: Microseconds,
    headers: str,
    data_commitment: bytes,
) -> bytes:
    """The chain hash of one event: 32 bytes. The fields are those that the module describes."""
    fields = (
        _BEFORE_PREVIOUS,
        previous,
        _names(environment, run_id),
        _whole(version),
        _whole(position),
        _made(event_type, actor, attempt),
        _NO_MOMENT if occurred_at is None else _whole(occurred_at),
        _moment(recorded_at),
        _text(headers),
        _BEFORE_COMMITMENT,
        data_commitment,
    )
    return sha256(b"".join(fields)).digest()


def _field(octets: bytes) -> bytes:
    return _length(len(octets)) + octets


_BEFORE_PREVIOUS = DOMAIN + _length(len(GENESIS))
_BEFORE_COMMITMENT = _length(sha256().digest_size)
_NO_MOMENT = _field(b"")
_LENGTHS = tuple(map(_length, range(20)))  # of the digits of a whole number of 64 bits


def _whole(number: int) -> bytes:
    digits = b"%d" % number
    return _LENGTHS[len(digits)] + digits


# What comes again with most events is kept: names, who makes changes, and the moment of a group.


@lru_cache(maxsize=4_096)
def _names(environment: str, run_id: str) -> bytes:
    return _text(environment) + _text(run_id)


@lru_cache(maxsize=1_024)
def _made(event_type: str, actor: str, attempt: int) -> bytes:
    return _text(event_type) + _text(actor) + _whole(attempt)


@lru_cache(maxsize=16)
def _moment(at: Microseconds) -> bytes:
    return _whole(at)


@lru_cache(maxsize=1_024)
def _text(text: str) -> bytes:
    return _field(text.encode())
