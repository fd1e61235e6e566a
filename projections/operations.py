"""
The changes a caller can ask for: the closed set of operations on metadata.

On the wire an operation is `{"type": "set", "key": "progress", "value": 0.5}`; unknown members are ignored.
Models are frozen, and the values in them canonical, so that applying an operation twice gives the same result.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PlainValidator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from projections import values
from projections.errors import BadValue
from projections.size import KEY_BYTES_MAX
from projections.times import Moment


def _value(value: object) -> JsonValue:
    try:
        return values.canonical(value)
    except BadValue as error:
        raise PydanticCustomError("bad_value", "{message}", {"message": str(error)}) from error


def _object(value: object) -> values.JsonObject:
    checked = _value(value)
    if not isinstance(checked, dict):
        raise PydanticCustomError("object_type", "must be an object")
    return checked


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number_type", "must be a number")
    try:
        return values.number(value)
    except BadValue as error:
        raise PydanticCustomError("bad_value", "{message}", {"message": str(error)}) from error


def _key(value: object) -> object:
    if isinstance(value, str) and value.isascii() and len(value) <= KEY_BYTES_MAX:
        return value
    if isinstance(value, str) and (size := len(str(_value(value)).encode())) > KEY_BYTES_MAX:
        raise PydanticCustomError(
            "too_many_bytes",
            "is {size} bytes, at most {limit} are allowed",
            {"size": size, "limit": KEY_BYTES_MAX},
        )
    return value


# The second argument is what JSON may say there, which the contract over HTTP is made of.
Value = Annotated[JsonValue, PlainValidator(_value, JsonValue)]
Object = Annotated[dict[str, JsonValue], PlainValidator(_object, dict[str, JsonValue])]
Number = Annotated[int | float, PlainValidator(_number, float)]
Key = Annotated[
    str,
    BeforeValidator(_key),
    Field(
        strict=True,
        description=f"A key, or a path where it begins with `$.`; at most {KEY_BYTES_MAX:,} bytes of UTF-8.",
        json_schema_extra={"maxLength": KEY_BYTES_MAX},
    ),
]


def _require_type(schema: JsonDict) -> None:
    """On the wire the type must be said; its default is for those who make an operation in Python."""
    properties, required = schema["properties"], schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    if isinstance(kind := properties.get("type"), dict):
        kind.pop("default", None)
        schema["required"] = ["type", *required]


class MetadataOperation(BaseModel):
    """What all operations have in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        strict=True,
        json_schema_extra=_require_type,
    )

    event_type: ClassVar[str]

    occurred_at: Moment | None = Field(
        default=None, description="When it happened by the caller's clock, ISO 8601 with a zone."
    )


class Set(MetadataOperation):
    """Give a key or path a value."""

    event_type: ClassVar[str] = "metadata.set"
    type: Literal["set"] = "set"
    key: Key
    value: Value


class Delete(MetadataOperation):
    """Remove a top-level key. The key is always literal, also when it starts with `$.`."""

    event_type: ClassVar[str] = "metadata.deleted"
    type: Literal["delete"] = "delete"
    key: Key


class AppendItem(MetadataOperation):
    """Add one item to the end of a list; what is no list yet becomes one."""

    event_type: ClassVar[str] = "metadata.appended"
    type: Literal["append"] = "append"
    key: Key
    value: Value


class RemoveItem(MetadataOperation):
    """Take every item equal to the value out of a list."""

    event_type: ClassVar[str] = "metadata.removed"
    type: Literal["remove"] = "remove"
    key: Key
    value: Value


class Increment(MetadataOperation):
    """Add to a number; what is no number counts as 0."""

    event_type: ClassVar[str] = "metadata.incremented"
    type: Literal["increment"] = "increment"
    key: Key
    value: Number


class Update(MetadataOperation):
    """Replace the whole object."""

    event_type: ClassVar[str] = "metadata.updated"
    type: Literal["update"] = "update"
    value: Object


Operation = Set | Delete | AppendItem | RemoveItem | Increment | Update
AnyOperation = Annotated[Operation, Field(discriminator="type")]
