"""The two ways to the ledger, a server and a database, as far as a job needs them: one behaviour."""

from typing import Protocol

from ledger.handle.records import Change, RunRecord
from ledger.handle.requests import Answer, Request
from projections.times import Microseconds
from projections.values import JsonObject


class Backend(Protocol):
    """
    A way to the ledger. All methods belong to the event loop that opened it.

    Attributes:
        destination: Where it leads, without secrets; what could not be delivered is kept under this name.
        variables: Environment variables that lead another process to the same place.
    """

    destination: str
    variables: dict[str, str]

    async def send(self, request: Request) -> Answer:
        """
        Have a request carried out.

        Raises:
            WriteRefused: It was not accepted, and never will be as it is.
            Unreachable: There was no answer, or one that says to try again.
        """

    async def retrieve(self, run_id: str) -> RunRecord:
        """
        A run as it is.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: There was no answer.
        """

    async def metadata(self, run_id: str, version: int | None, at: Microseconds | None) -> JsonObject:
        """
        The metadata of a run, now or as it stood.

        Raises:
            RunNotFound: There is no such run.
            NotFound: It has no such version, or did not exist then.
            Unreachable: There was no answer.
        """

    async def history(self, run_id: str, after: int, limit: int) -> list[Change]:
        """
        The next events of a run behind version *after*, oldest first.

        Raises:
            RunNotFound: There is no such run.
            Unreachable: There was no answer.
        """

    async def list(
        self, status: tuple[str, ...], task: tuple[str, ...], limit: int, after: str | None
    ) -> list[RunRecord]:
        """
        Runs, newest first, older than the run *after*.

        Raises:
            Unreachable: There was no answer.
        """

    async def close(self) -> None:
        """Let go of sockets, files and threads."""
