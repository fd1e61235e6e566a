"""
The Merkle tree over a log: one hash that depends on every event and its place.

    leaf = SHA-256(0x00 || event hash)
    node = SHA-256(0x01 || left || right)

The leaves are the events of an environment in the order of their positions. A tree that grows at its end needs
only the roots of its complete parts, one for each binary digit 1 of its size: its compact range.

Source: RFC 6962, section 2.1.
"""

from hashlib import sha256

HASH_BYTES = 32


class CompactRange:
    """
    A tree that grows at its end.

    Attributes:
        size: Leaves so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []  # Roots of complete parts, largest first.

    @classmethod
    def load(cls, size: int, stored: bytes) -> "CompactRange":
        """
        Read what `dump` wrote.

        Raises:
            ValueError: It is no range of a tree of *size* leaves.
        """
        if size < 0 or len(stored) != HASH_BYTES * size.bit_count():
            raise ValueError(f"{len(stored)} bytes are no compact range of {size} leaves")
        made = cls()
        made.size = size
        made._parts = [stored[start : start + HASH_BYTES] for start in range(0, len(stored), HASH_BYTES)]
        return made

    def dump(self) -> bytes:
        """The roots of its parts one behind the other."""
        return b"".join(self._parts)

    def append(self, event_hash: bytes) -> None:
        """Add one event at the end."""
        node = sha256(b"\0" + event_hash).digest()
        size = self.size
        while size & 1:  # As many parts as there are ones at the end of the size are complete pairs now.
            node = sha256(b"\1" + self._parts.pop() + node).digest()
            size >>= 1
        self._parts.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root of the whole tree; that of an empty one is SHA-256 of nothing."""
        if not self._parts:
            return sha256(b"").digest()
        *parts, node = self._parts
        for part in reversed(parts):
            node = sha256(b"\1" + part + node).digest()
        return node
