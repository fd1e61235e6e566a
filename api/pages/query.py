"""
What the address of a page says.

Like the API, a page refuses what means nothing to it, so that a slip in an address is not taken for an answer.
"""

import re
from collections.abc import Set as AbstractSet

from starlette.requests import Request

from api.problems import bad_request
from projections.errors import BadPath
from projections.paths import Path, parse_key

_NUMBER = re.compile(r"[1-9][0-9]{0,15}")


def check(request: Request, known: AbstractSet[str]) -> None:
    """
    Refuse an address that says something unknown, or one thing twice.

    Args:
        request: The request.
        known: What may be said, once.

    Raises:
        Problem: 400.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            there_are = ", ".join(sorted(known))
            raise bad_request(
                "unknown-parameter", f"{name[:80]!r} means nothing on this page; there are {there_are}"
            )
        if names.count(name) > 1:
            raise bad_request("repeated-parameter", f"{name!r} is said twice")


def number(request: Request, name: str, high: int | None = None) -> int | None:
    """
    A whole number from 1 on, None where none is given.

    Raises:
        Problem: 400.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or (high is not None and int(text) > high):
        bound = "" if high is None else f" to {high}"
        raise bad_request("bad-parameter", f"{name} must be a whole number from 1{bound}, not {text[:40]!r}")
    return int(text)


def key(request: Request, name: str) -> Path | None:
    """
    What a key leads to, None where none is given.

    Raises:
        Problem: 400.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        return parse_key(text)
    except BadPath as error:
        raise bad_request("bad-path", f"{name}: {error}") from error
