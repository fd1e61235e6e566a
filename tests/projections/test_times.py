"""Moments: ISO 8601 with a zone in, whole microseconds within, ISO 8601 in UTC out."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.times import format_time, parse_time
from tests.strategies import thorough

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01 00:00:01Z", 1_000_000),
        ("1970-01-01T00:00:00+00:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:30:00+0130", 0),
        ("1970-01-01T02:00:00+02", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00,25Z", 250_000),
        ("1970-01-01T00:00:00.1234567Z", 123_456),
        ("1970-01-01T00:00:00.1234569999999999Z", 123_456),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("2026-01-31T14:05:00.123456Z", 1_769_868_300_123_456),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("9007-01-01T00:00:00.123457Z", 222_066_230_400_123_457),
        ("0001-01-01T00:00:00Z", FIRST),
        ("9999-12-31T23:59:59.999999Z", LAST),
    ],
)
def test_iso_8601_with_a_zone_is_read_to_the_microsecond(text: str, moment: int) -> None:
    assert parse_time(text) == moment
    assert parse_time(format_time(moment)) == moment


@pytest.mark.parametrize(
    "value",
    [
        *("", "now", "2026", "2026-01-31", "2026-01-31T14:05:00", "2026-01-31T14:05:00 Z", "14:05:00Z"),
        *("2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-32T00:00:00Z", "2026-01-31T25:00:00Z"),
        *("2026-01-31T14:60:00Z", "2026-01-31T14:05:61Z", "2026-01-31T14Z", "0000-01-01T00:00:00Z"),
        *("2026-01-31T14:05:00+24:00", "2026-01-31T14:05:00+1", "2026-01-31T14:05:00Z ", " 2026-01-31T14:05:00Z"),
        *("2026-01-31T14:05:00Z\n", "2026-1-31T14:05:00Z", "20260131T140500Z", "2026-W05-6T14:05:00Z"),
        *("-2026-01-31T14:05:00Z", "+002026-01-31T14:05:00Z", "2026-01-31T14:05:00.Z", "2026-01-31T14:05:00UTC"),
        *(
            "\uff12\uff10\uff12\uff16-01-31T14:05:00Z",
            "2026-01-31T14:05:00.\u0663Z",
            "2026-01-31T14:05:00[Europe/Paris]",
        ),
        *(0, 1_769_868_300, 1.5, True, None, b"2026-01-31T14:05:00Z", [], datetime(2026, 1, 31)),  # noqa: DTZ001
    ],
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(value)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59.999999-23:59",
    ],
)
def test_time_that_utc_cannot_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(text)


def test_error_text_does_not_grow_with_the_text_that_was_sent() -> None:
    with pytest.raises(ValueError, match="time") as caught:
        parse_time("2026-13-31T14:05:00." + "9" * 100_000 + "Z")
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_769_868_300_123_456, "2026-01-31T14:05:00.123456Z"),
        (1_769_868_300_000_000, "2026-01-31T14:05:00.000000Z"),
        (FIRST, "0001-01-01T00:00:00.000000Z"),
        (LAST, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_moment_is_written_in_utc_with_six_decimals(moment: int, text: str) -> None:
    assert format_time(moment) == text


def test_datetime_with_a_zone_is_taken() -> None:
    assert parse_time(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == 0
    assert parse_time(datetime(1970, 1, 1, 0, 0, 0, 5, tzinfo=UTC)) == 5


@thorough
@given(st.integers(FIRST, LAST))
def test_written_moment_reads_back(moment: int) -> None:
    text = format_time(moment)
    assert parse_time(text) == moment
    assert len(text) == 27
    assert parse_time(EPOCH + timedelta(microseconds=moment)) == moment


@thorough
@given(st.integers(FIRST, LAST), st.integers(FIRST, LAST))
def test_written_moments_sort_as_moments(left: int, right: int) -> None:
    assert (format_time(left) < format_time(right)) is (left < right)


@thorough
@given(
    st.datetimes(timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))),
    st.text("0123456789", max_size=5),
)
def test_zone_is_taken_off_and_digits_past_the_microsecond_are_cut(time: datetime, digits: str) -> None:
    expected = (time - EPOCH) // timedelta(microseconds=1)
    if FIRST <= expected <= LAST:
        clock, zone = time.isoformat(timespec="microseconds")[:26], time.isoformat()[-6:]
        assert parse_time(f"{clock}{digits}{zone}") == expected
