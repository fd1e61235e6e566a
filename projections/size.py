"""
The size rule, and every other bound with its unit and its source.

The size of metadata is the number of UTF-8 bytes of its compact JSON as `JSON.stringify` writes it. Bounds
without a source of their own are this project's: they keep a request's cost within reason.
"""

DEPTH_MAX = 64  # levels; deeper nesting breaks readers written in other languages
METADATA_BYTES_DEFAULT = 4_096  # bytes of compact JSON; the first limit of the product this follows
METADATA_BYTES_MAX = 262_144  # bytes; that product's limit today, and the highest one that can be set
BODY_BYTES_MAX = 2_097_152  # bytes of one request; the reference server's bound
OPERATIONS_MAX = 10_000  # operations in one request, over its three lists
KEY_BYTES_MAX = 1_024  # bytes of UTF-8
LIST_INDEX_MAX = 65_535  # a path may not build a longer list by naming a far index
LIST_GAPS_MAX = 65_535  # nulls that one request may fill in; they take memory before the size is known
NAME_CHARACTERS_MAX = 256  # characters of a task, an actor and other names
ATTEMPT_MAX = 2**31 - 1  # what a 32-bit integer column holds
TAGS_MAX = 10  # tags of one run; the reference server's bound
TAG_CHARACTERS_MAX = 128  # characters; the reference server's bound
BATCH_RUNS_MAX = 1_000  # runs of one batch; the reference server's bound
PAYLOAD_BYTES_MAX = 524_288  # bytes of a payload or an output; larger ones are uploaded by the reference's SDK

assert METADATA_BYTES_DEFAULT <= METADATA_BYTES_MAX < BODY_BYTES_MAX
assert PAYLOAD_BYTES_MAX < BODY_BYTES_MAX


def size_bytes(text: str) -> int:
    """Bytes of UTF-8 that *text* takes."""
    return len(text) if text.isascii() else len(text.encode())
