"""
How many requests a key may make.

A bucket for each key, in memory and for this process alone: it gets its share once a second, holds ten seconds'
worth, and each request takes one. So a burst passes, and one key's haste never costs another's requests.
"""

import time
from collections.abc import Callable, Hashable

from api.problems import Problem

BURST_S = 10  # seconds' worth of requests that a bucket holds
TOO_MANY = -1  # what is left where a request is one too many

Headers = list[tuple[bytes, bytes]]


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
        self._now_s = -1
        self._limit_header = (b"x-ratelimit-limit", b"%d" % self.burst)
        self._reset_header = (b"x-ratelimit-reset", b"0")

    def take(self, key: Hashable) -> int:
        """
        Count one request of *key*, which is one that exists: buckets are kept for ever.

        Returns:
            Requests that it may make before its bucket gets its next share, or `TOO_MANY`.
        """
        now_s = int(self._clock())
        if now_s != self._now_s:
            self._now_s = now_s
            self._reset_header = (b"x-ratelimit-reset", b"%d" % ((now_s + 1) * 1_000))
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.burst, now_s)
        elif bucket.filled_s != now_s:
            # A clock that was set back fills nothing up, and must not stop the filling until it has caught up.
            passed = max(0, now_s - bucket.filled_s)
            bucket.tokens = min(self.burst, bucket.tokens + passed * self.limit)
            bucket.filled_s = now_s
        if not bucket.tokens:
            return TOO_MANY
        bucket.tokens -= 1
        return bucket.tokens

    def headers(self, remaining: int) -> Headers:
        """
        What the answer to the request that was counted last says.

        Source: the official Trigger.dev SDK, which waits until `x-ratelimit-reset`, in milliseconds.
        """
        return [self._limit_header, (b"x-ratelimit-remaining", b"%d" % max(0, remaining)), self._reset_header]

    def refusal(self) -> Problem:
        """The answer to a request that is one too many."""
        headers = {name.decode(): value.decode() for name, value in self.headers(TOO_MANY)}
        headers["Retry-After"] = "1"
        return Problem(
            429,
            "rate-limited",
            "Too many requests",
            f"this API key may make {self.limit:,} requests a second, and {self.burst:,} in one burst; "
            "nothing was done, try again in a second",
            headers=headers,
        )
