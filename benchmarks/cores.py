"""Which core runs the server and which one the load. Linux only, as is `os.sched_setaffinity`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@cache
def usable() -> tuple[int, ...]:
    """Cores this process may run on, lowest first: those of its beginning, also while it is pinned to one."""
    return tuple(sorted(os.sched_getaffinity(0)))


def for_server() -> int:
    """The core of every server under test: the first usable one."""
    return usable()[0]


def for_load() -> int:
    """The core of the load generator: the last usable one, the server's own if there is no other."""
    return usable()[-1]


def placement() -> str:
    """Say where server and load run, for the reader of a result."""
    if for_server() == for_load():
        return f"only core {for_server()} is usable: server and load share it, so both slow each other down"
    return f"server on core {for_server()}, load on core {for_load()}"


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep the calling thread, and every process and thread it starts meanwhile, on *core*."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
