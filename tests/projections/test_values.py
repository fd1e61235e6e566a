"""JSON text in and out: strict reading, the canonical form, JavaScript's spelling, JavaScript's equality."""

import contextlib
import sys
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from projections import values
from projections.errors import BadJson, BadValue
from projections.size import DEPTH_MAX, size_bytes
from tests.javascript import canonical_number, exact, number_to_string, stringify
from tests.strategies import json_values, nested, numbers, spellings, texts, thorough

TWICE = "this key appears twice in one object"
NOT_JSON = "is not JSON; send null or a string"
TOO_DEEP = "nested deeper than 64 levels"
NOT_EXACT = "a double cannot hold this integer exactly; send it as a string"

# --- parse ---


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('{"a":1,"a":2}', "a", TWICE),
        ('{"a":1,"a":1}', "a", TWICE),
        (r'{"a":1,"\u0061":2}', "a", TWICE),
        ('{"a":1,"b":2,"c":3,"b":4,"a":5}', "b", TWICE),
        ('{"a":[1,{"b":{"c":1,"d":[],"c":2}}]}', "a[1].b.c", TWICE),
        ('[[],[[{"a":0},{"a":1,"a":2}]]]', "[1][0][1].a", TWICE),
        ('{"a":{"b":1,"b":2},"a":3}', "a.b", TWICE),
        ("NaN", "top level", f"NaN {NOT_JSON}"),
        ("Infinity", "top level", f"Infinity {NOT_JSON}"),
        ("-Infinity", "top level", f"-Infinity {NOT_JSON}"),
        ("[[1,NaN]]", "[0][1]", f"NaN {NOT_JSON}"),
        ('{"a":[{"b":-Infinity}]}', "a[0].b", f"-Infinity {NOT_JSON}"),
        ('{"a":"NaN","b":Infinity}', "b", f"Infinity {NOT_JSON}"),
        ('{"a":[NaN],"b":1,"b":2}', "a[0]", f"NaN {NOT_JSON}"),
        ('{"b":1,"b":[NaN]}', "b", TWICE),
        ('{"é😀":{"\\u2028":1,"\u2028":1}}', "é😀.\u2028", TWICE),
    ],
)
def test_parse_names_the_first_place_that_is_not_strict(text: str, place: str, reason: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(BadJson) as caught:
            values.parse(data)
        assert (caught.value.place, caught.value.reason) == (place, reason)
        assert str(caught.value) == f"{place}: {reason}"


@pytest.mark.parametrize("text", ['{"":NaN}', '{"":1,"":2}', '[{"":{"":[Infinity]}}]', '{"a":{"":1,"":2}}'])
def test_parse_names_a_place_under_an_empty_key(text: str) -> None:
    with pytest.raises(BadJson) as caught:
        values.parse(text)
    assert caught.value.place not in {"", "top level", "a"}
    assert str(caught.value).startswith(caught.value.place)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, column 1"),
        (" ", "line 1, column 2"),
        ("{", "line 1, column 2"),
        ('{\n  "a": tru\n}', "line 2, column 8"),
        ("{'a':1}", "line 1, column 2"),
        ("{a:1}", "line 1, column 2"),
        ("[1] []", "line 1, column 5"),
        ("01", "line 1, column 2"),
        ("1.", "line 1, column 2"),
        (".5", "line 1, column 1"),
        ("+1", "line 1, column 1"),
        ("0x10", "line 1, column 2"),
        ("\u0661", "line 1, column 1"),
        ("nan", "line 1, column 1"),
        ('"\x00"', "line 1, column 2"),
        ('"a\nb"', "line 1, column 3"),
        (r'"\x41"', "line 1, column 2"),
        (r'"\u12"', "line 1, column 3"),
        ("\ufeff{}", "line 1, column 1"),
        ("\u00a0{}", "line 1, column 1"),
        ("[1] // one", "line 1, column 5"),
    ],
)
def test_parse_refuses_what_is_not_json_and_names_line_and_column(text: str, place: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(BadJson) as caught:
            values.parse(data)
        assert caught.value.place == place
        assert str(caught.value).startswith(f"{place}: ")


@pytest.mark.parametrize("text", ['{"a":1,}', "[1,]", "[1,,2]", "[,1]", '{,"a":1}'])
def test_parse_refuses_a_comma_too_many(text: str) -> None:
    with pytest.raises(BadJson) as caught:
        values.parse(text)
    # Which column is named depends on the Python version.
    assert caught.value.place.startswith("line 1, column ")


@pytest.mark.parametrize(
    ("data", "byte"),
    [
        (b'"\xff"', 1),
        (b'{"a":"\xc3"}', 6),
        (b'"\xed\xa0\x80"', 1),
        (b'"\xc0\x80"', 1),
        ('{"a":1}'.encode("utf-16"), 0),
    ],
)
def test_parse_refuses_bytes_that_are_not_utf_8(data: bytes, byte: int) -> None:
    with pytest.raises(BadJson) as caught:
        values.parse(data)
    assert (caught.value.place, caught.value.reason) == (f"byte {byte}", "not UTF-8")


@pytest.mark.parametrize("form", ["{}", "-{}", '{{"a":[{}]}}'])
def test_parse_refuses_an_integer_of_five_thousand_digits(form: str) -> None:
    text = form.format("9" * 5_000)
    with pytest.raises(BadJson, match=r"a number has too many digits; send it as a string\Z"):
        values.parse(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_parse_refuses_nesting_that_would_exhaust_the_stack(opening: str) -> None:
    with pytest.raises(BadJson, match=TOO_DEEP):
        values.parse(opening * 200_000)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param("", id="cut off"),
        pytest.param("}", id="wrong bracket"),
        pytest.param("tru]", id="bad literal"),
        pytest.param("1" * 5_000 + "]", id="too many digits"),
        pytest.param("[" * 200_000, id="too deep"),
        pytest.param('"\x01"]', id="control character"),
    ],
)
@pytest.mark.parametrize("first", ["NaN", "-Infinity", '{"a":1,"a":2}', '{"b":{"a":[],"a":[]}}'])
def test_parse_refuses_text_with_a_second_fault_after_one_that_is_not_strict(first: str, rest: str) -> None:
    with pytest.raises(BadJson):
        values.parse(f"[{first},{rest}")


@pytest.mark.parametrize("inside", ['{"a":1,"a":2}', "NaN", r'"\ud800"'])
def test_parse_refuses_what_is_not_strict_at_any_depth_that_can_be_read(inside: str) -> None:
    limit = sys.getrecursionlimit()
    for levels in (*range(1, limit, 50), *range(limit - 150, limit + 20)):
        with pytest.raises(BadJson):
            values.parse("[" * levels + inside + "]" * levels)


def test_parse_reads_escaped_characters_at_any_depth_or_says_that_it_is_too_deep() -> None:
    limit = sys.getrecursionlimit()
    for levels in (*range(1, limit, 50), *range(limit - 150, limit + 20)):
        text = "[" * levels + r'"\ud83d\ude00"' + "]" * levels
        with contextlib.suppress(BadJson):
            assert values.depth(values.parse(text)) == levels
            continue
        assert levels > DEPTH_MAX


def test_error_text_does_not_grow_with_the_keys_on_the_way() -> None:
    with pytest.raises(BadJson) as caught:
        values.parse('{"' + "k" * 100_000 + '":[NaN]}')
    assert len(str(caught.value)) < 400
    assert caught.value.place.startswith("kkk")


def test_finding_a_fault_under_a_long_key_copies_the_key_only_a_few_times() -> None:
    long = "k" * 1_000_000
    text = '{"' + long + '":[[[[[[[[[[[[[[[[NaN]]]]]]]]]]]]]]]]}'
    tracemalloc.start()
    try:
        with pytest.raises(BadJson):
            values.parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(long)


@pytest.mark.parametrize(
    ("text", "place", "half"),
    [
        (r'"\ud800"', "top level", "\\ud800"),
        (r'["a","\uDFFF"]', "[1]", "\\udfff"),
        (r'{"a":{"b":["\udc00\ud800"]}}', "a.b[0]", "\\udc00"),
        (r'{"a":"\ud83d\ude00 \ud83d"}', "a", "\\ud83d"),
        (r'{"a":"\\\ud83d"}', "a", "\\ud83d"),
        ('{"a":["\ud800"]}', "a[0]", "\\ud800"),
    ],
)
def test_half_a_character_is_refused_where_it_stands_by_parse_or_canonical(
    text: str, place: str, half: str
) -> None:
    fault = fault_in(text)
    assert fault.place.removeprefix(".") == place
    assert fault.reason == f"unpaired surrogate {half}; half a character cannot be stored"


@pytest.mark.parametrize(
    "text",
    [
        r'{"\ud800":1}',
        r'{"\ud800":1,"\ud800":2}',
        r'{"\udfff":[NaN]}',
        r'{"a":{"\udead\ud83d":{"b":1,"b":2}}}',
        '{"\ud800":NaN}',
        '{"a":{"\udfff":1,"\udfff":2}}',
    ],
)
def test_error_about_a_key_with_half_a_character_can_be_written_as_utf_8(text: str) -> None:
    fault = fault_in(text)
    assert r"\ud" in str(fault)
    str(fault).encode()
    fault.place.encode()


@pytest.mark.parametrize(
    ("text", "place"),
    [(r'{"a":"\ud83d\ude00","b":[1e400]}', ".b[0]"), (r'[-1e400,"\\ud800"]', "[0]")],
)
def test_number_past_the_largest_double_is_named_also_beside_escaped_characters(text: str, place: str) -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical(values.parse(text))
    assert caught.value.place == place


def test_parse_leaves_numbers_as_they_were_spelled() -> None:
    parsed: Any = values.parse("[1.0, -0.0, 1e2, 9007199254740993, 1e400, -1e400]")
    assert repr(parsed) == "[1.0, -0.0, 100.0, 9007199254740993, inf, -inf]"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' {"a" : [ true , null ] }\r\n\t', {"a": [True, None]}),
        (r'"\u0000\ud83d\ude00\/"', "\x00😀/"),
        ('"\u2028\u007f\ufeff"', "\u2028\x7f\ufeff"),
        ('{"":{"":1},"a.b":2}', {"": {"": 1}, "a.b": 2}),
        ('[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
        ('{"é":1,"e\u0301":2}', {"é": 1, "e\u0301": 2}),
        ('{"NaN":"Infinity"}', {"NaN": "Infinity"}),
    ],
)
def test_parse_takes_all_that_json_is(text: str, value: JsonValue) -> None:
    assert exact(values.parse(text)) == exact(value)
    assert exact(values.parse(text.encode())) == exact(value)


@thorough
@given(json_values().flatmap(lambda value: st.tuples(st.just(value), spellings(value))))
def test_every_spelling_of_a_value_reads_as_that_value(value_and_text: tuple[JsonValue, str]) -> None:
    value, text = value_and_text
    assert exact(values.canonical(values.parse(text))) == exact(value)
    assert exact(values.canonical(values.parse(text.encode()))) == exact(value)


@thorough
@given(st.text('{}[]",:\\ue1-0.NaInfty "\ud800\x00', max_size=30))
def test_parse_raises_nothing_but_bad_json(text: str) -> None:
    try:
        values.parse(text)
    except BadJson as error:
        str(error).encode()


# --- canonical ---


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (1.0, 1),
        (-0.0, 0),
        (0.0, 0),
        (1e2, 100),
        (0.1, 0.1),
        (5e-324, 5e-324),
        (2**53 - 1, 9007199254740991),
        (2**53, 9007199254740992),
        (2.0**53, 9007199254740992),
        (2**53 + 2, 9007199254740994),
        (-(2**53) - 2, -9007199254740994),
        (2**60, 1152921504606847000),
        (2.0**60, 1152921504606847000),
        (1152921504606847000, 1152921504606847000),
        (123456789012345680000, 123456789012345680000),
        (123456789012345683968, 123456789012345680000),
        (123456789012345680000.0, 123456789012345680000),
        (999999999999999868928, 999999999999999900000),
        (10**21, 1e21),
        (1e21, 1e21),
        (-(10**21), -1e21),
        (10**22, 1e22),
        (10**23, 1e23),
        (int(1e23), 1e23),
        (int(1.7976931348623157e308), 1.7976931348623157e308),
        (-int(1.7976931348623157e308), -1.7976931348623157e308),
    ],
)
def test_number_has_one_canonical_form(number: float, kept: float) -> None:
    assert repr(values.number(number)) == repr(kept)
    assert repr(values.canonical(number)) == repr(kept)
    assert repr(values.number(kept)) == repr(kept)
    assert values.dump(kept) == number_to_string(float(number))


@pytest.mark.parametrize(
    "integer",
    [
        2**53 + 1,
        -(2**53) - 1,
        9007199254740993,
        123456789012345678901,
        123456789012345680001,
        10**21 + 1,
        10**23 + 1,
        2**1024 - 1,
        2**1024,
        -(2**1024),
        10**309,
        pytest.param(10**5_000, id="10**5000"),
        pytest.param(-(10**5_000), id="-(10**5000)"),
    ],
)
def test_integer_that_a_double_would_round_is_refused(integer: int) -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical({"a": [0, integer]})
    assert (caught.value.place, caught.value.reason) == (".a[1]", NOT_EXACT)


@thorough
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_double_has_the_form_that_javascript_prints(double: float) -> None:
    kept = values.number(double)
    assert repr(kept) == repr(canonical_number(double))
    assert float(kept) == double
    assert repr(values.number(kept)) == repr(kept)
    assert values.dump(kept) == number_to_string(double)


@thorough
@given(st.one_of(st.integers(), st.integers(-(2**70), 2**70), st.integers(0, 1024).map(lambda power: 2**power)))
def test_integer_is_taken_only_when_javascript_would_not_change_it(integer: int) -> None:
    try:
        double = float(integer)
    except OverflowError:
        double = None
    if double is not None and (int(double) == integer or Decimal(number_to_string(double)) == integer):
        assert repr(values.number(integer)) == repr(canonical_number(double))
    else:
        with pytest.raises(BadValue, match=NOT_EXACT):
            values.number(integer)


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("1e400", "", "inf"),
        ("-1e400", "", "-inf"),
        ('{"a":[{"b":1e400}]}', ".a[0].b", "inf"),
        ('{"a.b":{"c":[-1e999]}}', ".a.b.c[0]", "-inf"),
        pytest.param(f"[1{'0' * 400}.5]", "[0]", "inf", id="400 digits and a fraction"),
    ],
)
def test_number_past_the_largest_double_is_refused_where_it_stands(text: str, place: str, shown: str) -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical(values.parse(text))
    reason = f"{shown} is not a JSON number (numbers are doubles); send it as a string"
    assert (caught.value.place, caught.value.reason) == (place, reason)
    assert str(caught.value) == (f"at {place}: {reason}" if place else reason)


@pytest.mark.parametrize(
    ("value", "place", "half"),
    [
        ("\ud800", "", "\\ud800"),
        ("a\udfff", "", "\\udfff"),
        ("\udc00\ud800", "", "\\udc00"),
        ({"a": ["x", "\ud83d"]}, ".a[1]", "\\ud83d"),
        ({"a": {"\udead": 1}}, ".a.\\udead", "\\udead"),
        ({"\ud800": {"b": 1}}, ".\\ud800", "\\ud800"),
    ],
)
def test_half_a_character_is_refused_in_values_and_keys(value: object, place: str, half: str) -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical(value)
    assert caught.value.place == place
    assert caught.value.reason == f"unpaired surrogate {half}; half a character cannot be stored"
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        (float("nan"), "", "nan is not a JSON number (numbers are doubles); send it as a string"),
        ({"a": [float("inf")]}, ".a[0]", "inf is not a JSON number (numbers are doubles); send it as a string"),
        (b"a", "", "bytes is not a JSON value"),
        ([{1}], "[0]", "set is not a JSON value"),
        ({"a": Decimal(1)}, ".a", "Decimal is not a JSON value"),
        ({"a": {1: 2}}, ".a", "the key 1 is not a string"),
        ({None: 2}, "", "the key None is not a string"),
        ({"a": object}, ".a", "type is not a JSON value"),
    ],
)
def test_what_json_does_not_have_is_refused(value: object, place: str, reason: str) -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical(value)
    assert (caught.value.place, caught.value.reason) == (place, reason)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}, lambda value: (value,)])
def test_sixty_four_levels_are_accepted_and_sixty_five_refused(wrap: Callable[[object], object]) -> None:
    value: object = wrap(1)
    for _ in range(DEPTH_MAX - 1):
        value = wrap(value)
    assert values.depth(values.canonical(value)) == 64
    with pytest.raises(BadValue) as caught:
        values.canonical(wrap(value))
    assert caught.value.reason == TOO_DEEP


def test_too_deep_a_value_is_named_by_its_place() -> None:
    with pytest.raises(BadValue) as caught:
        values.canonical({"a": [1, nested(63)]})
    assert caught.value.place == ".a[1]" + ".a[0]" * 31
    assert len(caught.value.place) < 200


def test_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(BadValue, match=TOO_DEEP):
        values.canonical(loop)


def test_canonical_is_a_copy_and_shares_no_container() -> None:
    inner: list[object] = [1]
    value: dict[str, object] = {"a": inner, "b": inner}
    kept: Any = values.canonical(value)
    inner.append(2)
    value["c"] = 3
    assert kept == {"a": [1], "b": [1]}
    assert kept["a"] is not kept["b"]


def test_tuple_becomes_a_list() -> None:
    assert exact(values.canonical({"a": (1.0, (True,))})) == '{"a": [1, [true]]}'


def test_number_of_a_class_with_its_own_spelling_is_taken_as_a_number() -> None:
    class Celsius(float):
        def __repr__(self) -> str:
            return f"Celsius({float(self)})"

    assert values.dump(values.canonical([Celsius(1.5), Celsius(1e17), Celsius(3)])) == "[1.5,100000000000000000,3]"


@thorough
@given(json_values())
def test_canonical_changes_nothing_that_is_canonical(value: JsonValue) -> None:
    assert exact(values.canonical(value)) == exact(value)


# --- dump and load ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        ([], "[]"),
        ({}, "{}"),
        (0.000001, "0.000001"),
        (0.00001, "0.00001"),
        (-0.0000125, "-0.0000125"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (1e-7, "1e-7"),
        (-1.5e-7, "-1.5e-7"),
        (1e-10, "1e-10"),
        (5e-324, "5e-324"),
        (999999999999999900000, "999999999999999900000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.1, "0.1"),
        (123456.789, "123456.789"),
        ('\b\t\n\f\r"\\/', '"\\b\\t\\n\\f\\r\\"\\\\/"'),
        ("\x00\x0b\x1f\x7f", '"\\u0000\\u000b\\u001f\x7f"'),
        ("é😀\u2028\u2029\ufeff", '"é😀\u2028\u2029\ufeff"'),
        ({"b": [1, {"a": None}], "a": ""}, '{"b":[1,{"a":null}],"a":""}'),
        ({"1e-05": "1e-05", 'e-0"': ['\\"1e-07', 1e-7], "\\": 1e-5}, None),
        (['"1e-05"', "\\1e-05\\", 0.00001, "1e-05\\\\"], None),
    ],
)
def test_dump_writes_as_json_stringify(value: JsonValue, text: str | None) -> None:
    assert values.dump(value) == (text or stringify(value))
    assert stringify(value) == values.dump(value)


@thorough
@given(json_values())
def test_dump_agrees_with_an_independent_writer(value: JsonValue) -> None:
    text = values.dump(value)
    assert text == stringify(value)
    assert size_bytes(text) == len(stringify(value).encode())


@thorough
@given(st.lists(st.one_of(numbers(), texts()), max_size=6))
def test_dump_tells_tiny_numbers_from_texts_that_look_like_them(mixed: list[JsonValue]) -> None:
    tricky: JsonValue = [1e-5, *mixed, "1e-05", {"1e-05": mixed}, '"', 1.5e-7]
    assert values.dump(tricky) == stringify(tricky)


@thorough
@given(json_values())
def test_parse_undoes_dump_and_dump_is_stable(value: JsonValue) -> None:
    text = values.dump(value)
    assert exact(values.canonical(values.parse(text))) == exact(value)
    assert exact(values.load(text)) == exact(value)
    assert values.dump(values.canonical(values.parse(text.encode()))) == text
    assert values.dump(values.load(text)) == text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_dump_never_writes_what_is_not_json(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        values.dump({"a": number})


def test_load_does_not_judge_what_was_stored() -> None:
    deep = "[" * 100 + "]" * 100
    assert values.dump(values.load(deep)) == deep
    assert values.load('{"a":1,"a":9007199254740993}') == {"a": 9007199254740993}


@pytest.mark.parametrize(
    ("text", "size"), [("", 0), ("a", 1), ("é", 2), ("\u2028", 3), ("😀", 4), ("\x00\x7f", 2)]
)
def test_size_counts_bytes_of_utf_8(text: str, size: int) -> None:
    assert size_bytes(text) == size


# --- equal and depth ---

APART: list[JsonValue] = [None, True, False, 0, 1, -1, 1.5, "1", "true", "", "null", [], {}, [0], [1], [True]]
APART += [[None], {"a": 0}, {"a": False}, {"a": None}, {"b": 0}, {"a": 0, "b": 0}, [1, 2], [2, 1], [[1]], [[]]]
APART += ["é", "e\u0301", 1e21, 999999999999999900000, {"": 0}, {"a": [1]}, {"a": [True]}, {"a": {}}, {"a": []}]


@pytest.mark.parametrize("left", range(len(APART)))
def test_different_values_are_not_equal_and_each_equals_itself(left: int) -> None:
    for right in range(len(APART)):
        assert values.equal(APART[left], values.canonical(APART[right])) is (left == right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (0, -0.0),
        ({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}),
        ([{"x": None}, {}], [{"x": None}, {}]),
        (123456789012345680000, 123456789012345683968.0),
    ],
)
def test_equality_is_that_of_javascript(left: JsonValue, right: JsonValue) -> None:
    assert values.equal(values.canonical(left), values.canonical(right))
    assert values.equal(values.canonical(right), values.canonical(left))


@thorough
@given(json_values(), json_values())
def test_values_are_equal_exactly_when_their_texts_with_sorted_members_are(
    left: JsonValue, right: JsonValue
) -> None:
    assert values.equal(left, right) is (exact(left) == exact(right))
    assert values.equal(left, _reversed(left))
    assert values.equal([left, right], [_reversed(left), right])


@pytest.mark.parametrize(
    ("value", "levels"),
    [
        (1, 0),
        ("[[", 0),
        (None, 0),
        ([], 1),
        ({}, 1),
        ([1, "{"], 1),
        ([[], {"a": []}], 3),
        ({"a": 1, "b": [{}]}, 3),
    ],
)
def test_depth_counts_containers_within_each_other(value: JsonValue, levels: int) -> None:
    assert values.depth(value) == levels


@pytest.mark.parametrize("levels", [1, 2, 64, 65, 5_000])
def test_depth_of_a_nested_value_needs_no_stack(levels: int) -> None:
    assert values.depth(nested(levels)) == levels


def fault_in(text: str) -> BadJson | BadValue:
    """What is wrong with *text*, found by one of the two that read it."""
    try:
        values.canonical(values.parse(text))
    except (BadJson, BadValue) as fault:
        return fault
    pytest.fail(f"{text!r} was accepted")


def _reversed(value: JsonValue) -> JsonValue:
    """The same value with the members of every object in the opposite order."""
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return [_reversed(item) for item in value]
    return value
