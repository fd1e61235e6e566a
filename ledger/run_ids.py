"""Run ids: which there can be, and new ones."""

import re

import uuid_utils

RUN_ID = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")
RUN_ID_SCHEMA = {"type": "string", "pattern": f"^{RUN_ID.pattern}$"}  # As JSON Schema says it.

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_run_id() -> str:
    """A run id that sorts by the time it was made: `run_` and 25 lower-case letters and digits."""
    number = uuid_utils.uuid7().int
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return f"run_{digits:0>25}"
