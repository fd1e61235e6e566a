"""
Who may come in.

A database in which no API key was ever made is open: anyone who reaches the server may read and write. So the
server then listens on loopback addresses only, answers loopback names only (or any web page could reach it through
a name that points here), and refuses forwarded headers (a proxy in front would let the world in).
"""

from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import Problem
from ledger.ledger import Log


class OpenAccess:
    """
    The rules of an open ledger, in front of *app*. A request that may pass carries the log it may work on.

    Args:
        app: What answers the requests that may pass.
        log: The log of the environment that is open.
    """

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say why not."""
        if scope["type"] == "http":
            problem = _judge(scope)
            if problem is not None:
                await problem.response()(scope, receive, send)
                return
            scope["run_ledger.log"] = self._log
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _judge(scope: Scope) -> Problem | None:
    hosts = []
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name == b"forwarded" or name.startswith(b"x-forwarded-"):
            return _refusal(
                400,
                "forwarded",
                f"the header {name.decode('latin-1')} says that a proxy forwards requests from elsewhere",
            )
    if not hosts or not all(map(_names_this_machine, hosts)):
        named = b", ".join(hosts).decode("latin-1")
        return _refusal(421, "foreign-host", f"the Host header is {named!r}, not a name of this machine")
    return None


@lru_cache(maxsize=64)
def _names_this_machine(host: bytes) -> bool:
    """Judge one Host header; a client sends the same one with every request."""
    name, colon, port = host.decode("latin-1").rpartition(":")
    return is_loopback((name if colon and port.isdecimal() else host.decode("latin-1")).lower())


def _refusal(status: int, code: str, what: str) -> Problem:
    detail = f"{what}; a ledger without API keys answers this machine only"
    return Problem(status, code, "The request came from elsewhere", detail)
