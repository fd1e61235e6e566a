"""Run ids: which there can be, and new ones; and the ids of batches."""

import re

import uuid_utils

RUN_ID = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")
RUN_ID_SCHEMA = {"type": "string", "pattern": f"^{RUN_ID.pattern}$"}  # As JSON Schema says it.

BATCH_ID = re.compile(r"batch_[0-9a-z]{25}")
BATCH_ID_SCHEMA = {"type": "string", "pattern": f"^{BATCH_ID.pattern}$"}

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_run_id() -> str:
    """A run id that sorts by the time it was made: `run_` and 25 lower-case letters and digits."""
    return f"run_{_new_digits()}"


def new_batch_id() -> str:
    """The id of a batch: `batch_` and 25 lower-case letters and digits."""
    return f"batch_{_new_digits()}"


def _new_digits() -> str:
    number = uuid_utils.uuid7().int
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return f"{digits:0>25}"
