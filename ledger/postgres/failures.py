"""What the driver says of the storage, in the ledger's words."""

from typing import NoReturn

import psycopg
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from ledger.errors import Busy, StorageFailed, StorageFull, StorageSilent
from ledger.postgres.connection import TIMEOUT_MS, Silence


def translate(error: psycopg.Error) -> NoReturn:
    """
    Say in the ledger's words what the driver said of the storage, and keep the cause.

    What the server says of a statement is a fault of this program and stays as it is.
    """
    state = error.sqlstate or ""
    if state in _LOCKED:
        raise Busy(
            f"another process has held the lock, or the database was busy, for {TIMEOUT_MS // 1000} seconds "
            f"({reason(error)}); nothing was written, try again"
        ) from error
    if state in _FULL:
        raise StorageFull(reason(error)) from error
    if is_silence(error):
        raise StorageSilent(reason(error)) from error
    if not state or state[:2] in _FAILED or state in _DENIED:
        raise StorageFailed(reason(error)) from error
    raise error


# Classes and codes of errors. Source: PostgreSQL 18, appendix A.
_LOCKED = {
    "55P03",  # lock_not_available
    "57014",  # query_canceled, by statement_timeout
    "25P03",  # idle_in_transaction_session_timeout: this process was frozen
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
}
_FULL = {"53100"}  # disk_full
_FAILED = {
    "08",  # connection_exception
    "53",  # insufficient_resources
    "57",  # operator_intervention: it is shutting down or starting up
    "58",  # system_error
    "F0",  # config_file_error
    "XX",  # internal_error, data_corrupted
    "28",  # invalid_authorization_specification
}
_DENIED = {
    "25006",  # read_only_sql_transaction: this is a standby now
    "42501",  # insufficient_privilege
    "42P01",  # undefined_table
    "42703",  # undefined_column
    "3D000",  # invalid_catalog_name
    "0A000",  # feature_not_supported: such as a prepared statement whose table was altered
}


def is_silence(error: psycopg.Error) -> bool:
    """Whether the server said nothing, rather than that it said no."""
    return isinstance(error, Silence | errors.ConnectionTimeout)


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection broke, rather than that the server refused something on it."""
    if isinstance(error, psycopg.OperationalError):
        state = error.sqlstate or ""
        return not state or (state[:2] in {"08", "57"} and state != "57014") or state == "25P03"
    return False


def reason(error: BaseException) -> str:
    """What an error says, on one line, with its code."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = " ".join(str(cause).split()) or type(cause).__name__
    state = getattr(cause, "sqlstate", None)
    return f"{text}, {state}" if state else text
