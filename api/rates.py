"""
How many requests a key may make.

A bucket for each key, in memory and for this process alone: it gets its share once a second, holds ten seconds'
worth, and each request takes one. So a burst passes, and one key's haste never costs another's requests.
"""

import math
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from api.problems import Problem

BURST_S = 10  # seconds' worth of requests that a bucket holds


class Allowance(NamedTuple):
    """
    What a key has left.

    Attributes:
        remaining: Requests it may make before its bucket gets its next share; -1 if this one was already too many.
        reset_s: When that is, in seconds since 1970-01-01 UTC.
    """

    remaining: int
    reset_s: int


class _Bucket:
    __slots__ = ("filled_s", "tokens")

    def __init__(self, tokens: int, filled_s: int) -> None:
        self.tokens = tokens
        self.filled_s = filled_s


class Rates:
    """
    The buckets of all keys that were seen.

    Args:
        limit: Requests a second.
        clock: Seconds since 1970-01-01 UTC.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self.limit = limit
        self.burst = limit * BURST_S
        self._clock = clock
        self._buckets: dict[Hashable, _Bucket] = {}
        self._limit_header = (b"x-ratelimit-limit", b"%d" % self.burst)

    def take(self, key: Hashable) -> Allowance:
        """Count one request of *key*, which is one that exists: buckets are kept for ever."""
        second = int(self._clock())
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.burst, second)
        elif bucket.filled_s != second:
            # A clock that was set back fills nothing up, and must not stop the filling until it has caught up.
            passed = max(0, second - bucket.filled_s)
            bucket.tokens = min(self.burst, bucket.tokens + passed * self.limit)
            bucket.filled_s = second
        if not bucket.tokens:
            return Allowance(-1, second + 1)
        bucket.tokens -= 1
        return Allowance(bucket.tokens, second + 1)

    def headers(self, allowance: Allowance) -> list[tuple[bytes, bytes]]:
        """
        What an answer says of it.

        Source: the official Trigger.dev SDK, which waits until `x-ratelimit-reset`, in milliseconds.
        """
        return [
            self._limit_header,
            (b"x-ratelimit-remaining", b"%d" % max(0, allowance.remaining)),
            (b"x-ratelimit-reset", b"%d" % (allowance.reset_s * 1_000)),
        ]

    def refusal(self, allowance: Allowance) -> Problem:
        """The answer to a request that is one too many."""
        headers = {name.decode(): value.decode() for name, value in self.headers(allowance)}
        headers["Retry-After"] = str(max(1, math.ceil(allowance.reset_s - self._clock())))
        return Problem(
            429,
            "rate-limited",
            "Too many requests",
            f"this API key may make {self.limit:,} requests a second, and {self.burst:,} in one burst; "
            "nothing was done, try again in a second",
            headers=headers,
        )
