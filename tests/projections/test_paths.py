"""Keys: which are paths, which are literal, which no operation may use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.errors import BadPath
from projections.paths import Path, list_index, literal, parse_key
from tests import model
from tests.strategies import KEYS, NAMES, keys, thorough

WILDCARD = "wildcards are not supported; send one operation for each member"
SLICE = "slices are not supported; send one operation for each item"
ESCAPE = "escapes are not supported; use the literal key, without $., for odd names"
FORBIDDEN = "__proto__, constructor and prototype are forbidden in a path"
NAMELESS = "the path names nothing; write $.name, or send update to replace everything"
PROTO = "this name is forbidden; it would change every object of a JavaScript reader"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("$.a", ("a",)),
        ("$.a.b.c", ("a", "b", "c")),
        ("$.steps.0.name", ("steps", "0", "name")),
        ("$..a", ("a",)),
        ("$.a.", ("a",)),
        ("$...a...b..", ("a", "b")),
        ("$.$", ("$",)),
        ("$.$.a", ("$", "a")),
        ("$.a[0]", ("a[0]",)),
        ("$.['a']", ("['a']",)),
        ("$.[0]", ("[0]",)),
        ("$.a[*]", ("a[*]",)),
        ("$.a[0:2]", ("a[0:2]",)),
        ("$.[-1:2]", ("[-1:2]",)),
        ("$.[a:b]", ("[a:b]",)),
        ("$.[1:2:3]", ("[1:2:3]",)),
        ("$.[0:-]", ("[0:-]",)),
        ("$.[]", ("[]",)),
        ("$.a*", ("a*",)),
        ("$.**", ("**",)),
        ("$.~", ("~",)),
        ("$.~0", ("~0",)),
        ("$.~2", ("~2",)),
        ("$. a . b ", (" a ", " b ")),
        ("$. ", (" ",)),
        ('$."', ('"',)),
        ("$.\x00", ("\x00",)),
        ("$.\u2028.😀", ("\u2028", "😀")),
        ("$.my__proto__", ("my__proto__",)),
        ("$.__proto__s", ("__proto__s",)),
        ("$.Constructor.toString", ("Constructor", "toString")),
        ("$.length", ("length",)),
        ("$.-1.01", ("-1", "01")),
    ],
)
def test_key_that_starts_with_dollar_and_dot_is_a_path(key: str, names: tuple[str, ...]) -> None:
    assert parse_key(key) == Path(names, literal=False)


@pytest.mark.parametrize("digits", ["\u0663", "\u0969", "\uff11"])
def test_digits_of_other_scripts_make_no_slice_and_no_index(digits: str) -> None:
    assert parse_key(f"$.[{digits}:]") == Path((f"[{digits}:]",), literal=False)
    assert parse_key(f"$.[:{digits}]") == Path((f"[:{digits}]",), literal=False)
    assert list_index(digits) is None


@pytest.mark.parametrize(
    "key",
    [
        *("", "a", "a.b", "$", "$a", "$$", "$$.a", "$[0]", "$['a']", " $.a", ".a", "a.$.b", "*", "[0:1]", "a\\.b"),
        *("~1", "constructor", "prototype", "a.__proto__", "__proto__.a", "__proto__ ", "length", "\x00", "😀"),
    ],
)
def test_any_other_key_is_literal(key: str) -> None:
    assert parse_key(key) == literal(key) == Path((key,), literal=True)
    assert str(parse_key(key)) == key


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("__proto__", PROTO),
        ("$.", NAMELESS),
        ("$..", NAMELESS),
        ("$.....", NAMELESS),
        ("$.*", WILDCARD),
        ("$.a.*", WILDCARD),
        ("$.*.a", WILDCARD),
        ("$..*.", WILDCARD),
        ("$.[0:2]", SLICE),
        ("$.a.[0:2]", SLICE),
        ("$.a.[:]", SLICE),
        ("$.a.[1:].b", SLICE),
        ("$.a.[:3]", SLICE),
        ("$.a.[1:-1]", SLICE),
        ("$.a.[:-10]", SLICE),
        ("$.a\\.b", ESCAPE),
        ("$.\\", ESCAPE),
        ("$.a\\", ESCAPE),
        ("$.a\\\\b", ESCAPE),
        ("$.a~1b", ESCAPE),
        ("$.~1", ESCAPE),
        ("$.__proto__", FORBIDDEN),
        ("$.a.__proto__.b", FORBIDDEN),
        ("$..__proto__.", FORBIDDEN),
        ("$.constructor", FORBIDDEN),
        ("$.a.constructor.prototype", FORBIDDEN),
        ("$.prototype", FORBIDDEN),
        ("$.[constructor]", FORBIDDEN),
        ("$.a[constructor]", FORBIDDEN),
        ("$.a['__proto__']", FORBIDDEN),
        ('$.a["prototype"]b', FORBIDDEN),
        ("$.'constructor'", FORBIDDEN),
    ],
)
def test_key_that_no_operation_may_use_is_refused_with_the_reason(key: str, reason: str) -> None:
    with pytest.raises(BadPath) as caught:
        parse_key(key)
    assert (caught.value.key, caught.value.reason, caught.value.index) == (key, reason, None)
    assert str(caught.value) == f"key {key!r}: {reason}"


def test_refused_key_is_refused_again() -> None:
    for _ in range(3):
        with pytest.raises(BadPath):
            parse_key("$.*")


@pytest.mark.parametrize("key", ["$.", "$.a", "$.*", "$.a\\.b", "$.constructor", "$.a.[0:2]", "constructor"])
def test_literal_takes_keys_that_look_like_paths(key: str) -> None:
    assert literal(key) == Path((key,), literal=True)
    assert str(literal(key)) == key


def test_literal_refuses_only_the_prototype() -> None:
    with pytest.raises(BadPath) as caught:
        literal("__proto__")
    assert (caught.value.key, caught.value.reason) == ("__proto__", PROTO)


@thorough
@given(keys())
def test_literal_key_is_never_split(key: str) -> None:
    assert parse_key(key) == Path((key,), literal=True)


@thorough
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5), st.data())
def test_path_reads_back_from_its_text_however_many_dots_there_are(names: list[str], data: st.DataObject) -> None:
    path = Path(tuple(names), literal=False)
    dots = data.draw(st.lists(st.integers(1, 3), min_size=len(names) + 1, max_size=len(names) + 1))
    sloppy = "$" + "".join("." * count + name for count, name in zip(dots, names, strict=False)) + "." * dots[-1]
    assert str(path) == "$." + ".".join(names)
    assert parse_key(str(path)) == path
    assert parse_key(sloppy) == path


@thorough
@given(st.text("$.a*[]:01-\\~'\"_😀\x00", max_size=12))
def test_every_text_is_a_literal_a_path_or_refused(key: str) -> None:
    if model.is_refused(key):
        with pytest.raises(BadPath) as caught:
            parse_key(key)
        assert caught.value.key == key
    else:
        path = parse_key(key)
        assert path.literal is not key.startswith("$.")
        assert parse_key(str(path)) == path


# --- list indexes ---


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("0", 0),
        ("1", 1),
        ("10", 10),
        ("65535", 65_535),
        ("65536", 65_536),
        ("4294967295", 4_294_967_295),
        ("9" * 1_000, int("9" * 1_000)),
    ],
)
def test_digits_without_leading_zeros_are_an_index(name: str, index: int) -> None:
    assert list_index(name) == index


@pytest.mark.parametrize(
    "name",
    [
        "",
        "foo",
        "-1",
        "-0",
        "+1",
        "01",
        "00",
        "1.0",
        "1e0",
        " 1",
        "1 ",
        "1\n",
        "0x1",
        "1_0",
        "\u0661",
        "\u00b2",
        "length",
    ],
)
def test_any_other_name_is_no_index(name: str) -> None:
    assert list_index(name) is None


# --- overlaps ---


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a", "a", True),
        ("a", "$.a", True),
        ("$.a", "$.a.b", True),
        ("$.a.b.c", "$.a", True),
        ("a", "$.a.0.b", True),
        ("a", "b", False),
        ("$.a", "$.ab", False),
        ("$.a.b", "$.a.c", False),
        ("a.b", "$.a.b", False),
        ("a.b", "$.a", False),
        ("$.a.0", "$.a.1", False),
        ("$.a.0", "$.a.00", False),
        ("", "$.a", False),
        ("$", "$.a", False),
        ("é", "e\u0301", False),
    ],
)
def test_paths_overlap_when_one_lies_within_the_other(left: str, right: str, *, expected: bool) -> None:
    assert parse_key(left).overlaps(parse_key(right)) is expected
    assert parse_key(right).overlaps(parse_key(left)) is expected


def test_literal_key_that_looks_like_a_path_overlaps_only_itself() -> None:
    assert literal("$.a").overlaps(literal("$.a"))
    assert not literal("$.a").overlaps(parse_key("$.a"))
    assert not literal("$.a").overlaps(parse_key("a"))


@thorough
@given(
    st.lists(st.sampled_from(KEYS[:4]), min_size=1, max_size=4),
    st.lists(st.sampled_from(KEYS[:4]), min_size=1, max_size=4),
)
def test_overlap_is_being_a_beginning_of_the_other(left: list[str], right: list[str]) -> None:
    either = left == right[: len(left)] or right == left[: len(right)]
    assert Path(tuple(left), literal=False).overlaps(Path(tuple(right), literal=False)) is either
