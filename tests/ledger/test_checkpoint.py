"""Checkpoints: the tree of RFC 6962, the note that is signed, and what `verify` makes of true and forged ones."""

import asyncio
import base64
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import (
    SigningKey,
    check_all,
    join,
    key_id,
    note_text,
    read_notes,
    read_verifier_key,
    verifier_key,
)
from ledger.errors import BadCheckpoint, Unsound
from ledger.ledger import Ledger
from ledger.log import Log
from ledger.merkle import CompactRange
from ledger.store import inspect_database
from ledger.verify import Claim, verify_all
from projections.operations import Increment
from tests.ledger.support import Database, change, check_sound, create
from tests.strategies import thorough

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))

# --- the tree ---


def naive_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


# The leaves and roots of the test that Certificate Transparency's own implementations share.
CT_LEAVES = [
    *(b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43"),
    *(b"\x50\x51\x52\x53\x54\x55\x56\x57", b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f"),
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def grown(leaves: list[bytes]) -> CompactRange:
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf)
    return tree


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert grown(CT_LEAVES[:size]).root().hex() == CT_ROOTS[size]
    assert naive_root(CT_LEAVES[:size]).hex() == CT_ROOTS[size]


def test_three_leaves_make_the_root_that_a_hand_computes() -> None:
    a, b, c = (sha256(b"\x00" + leaf).digest() for leaf in (b"A", b"B", b"C"))
    by_hand = sha256(b"\x01" + sha256(b"\x01" + a + b).digest() + c).digest()
    assert grown([b"A", b"B", b"C"]).root() == by_hand


@thorough
@given(st.integers(0, 140), st.integers(0, 140))
def test_a_tree_that_goes_on_from_its_stored_range_is_the_whole_tree(size: int, stop: int) -> None:
    leaves = [bytes([number]) * 32 for number in range(size)]
    stop = min(size, stop)
    tree = CompactRange.load(stop, grown(leaves[:stop]).dump())
    assert tree.root() == naive_root(leaves[:stop])
    for leaf in leaves[stop:]:
        tree.append(leaf)
    assert (tree.size, tree.root()) == (size, naive_root(leaves))
    assert len(tree.dump()) == 32 * size.bit_count()


@pytest.mark.parametrize(("size", "length"), [(1, 0), (1, 31), (3, 32), (0, 32), (-1, 32)])
def test_a_range_that_cannot_be_of_its_size_is_refused(size: int, length: int) -> None:
    with pytest.raises(ValueError, match="no compact range"):
        CompactRange.load(size, bytes(length))


# --- the note ---

CLAIM = Claim("dev", "00aa", 3, bytes(range(32)))


def test_a_note_has_the_form_of_a_transparency_logs_checkpoint() -> None:
    note = KEY.sign(CLAIM)
    text, empty, signature, end = note[:-1].partition("\n\n")[0] + "\n", "", note.split("\n\n")[1], note[-1]
    assert (text, empty, end) == (
        f"run-ledger/dev/00aa\n3\n{base64.b64encode(bytes(range(32))).decode()}\n",
        "",
        "\n",
    )
    name, encoded = re.fullmatch(r"— (\S+) (\S+)\n", signature).groups()  # type: ignore[union-attr]
    raw = base64.b64decode(encoded)
    assert name == "run-ledger/dev/00aa"
    assert raw[:4] == sha256(b"run-ledger/dev/00aa\n\x01" + KEY.public).digest()[:4]
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(raw[4:], text.encode())


def test_the_key_id_is_that_of_a_known_log() -> None:
    """The key of Go's checksum database, as its tools print it."""
    known = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    name, number, encoded = known.split("+", 2)
    assert key_id(name, base64.b64decode(encoded)[1:]).hex() == number
    assert verifier_key(name, read_verifier_key(known)) == known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no public key"),
        ("something", "no public key"),
        (verifier_key("a", KEY.public)[:-5], "no Ed25519 key"),
        ("a+00000000+" + verifier_key("a", KEY.public).split("+", 2)[2], "damaged"),
        ("a+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode(), "no Ed25519 key"),
    ],
)
def test_a_public_key_that_cannot_be_one_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadCheckpoint, match=words):
        read_verifier_key(text)


def test_a_key_is_made_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = SigningKey.load_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load_or_make(path).public == made.public
    path.chmod(0o640)
    with pytest.raises(BadCheckpoint, match="others may read the key"):
        SigningKey.load(path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(BadCheckpoint, match="no private key"):
        SigningKey.load(path)
    with pytest.raises(BadCheckpoint, match="cannot read the key"):
        SigningKey.load(tmp_path / "nothing")
    with pytest.raises(BadCheckpoint, match="cannot write the key"):
        SigningKey.load_or_make(tmp_path / "no folder" / "key")


def test_a_file_of_several_notes_reads_as_what_was_signed() -> None:
    claims = [CLAIM, Claim("prod", "00bb", 0, sha256(b"").digest())]
    text = join(map(KEY.sign, claims))
    assert check_all(text, KEY.public) == claims
    assert [note.text for note in read_notes(text)] == list(map(note_text, claims))


def test_signatures_of_witnesses_do_no_harm() -> None:
    note = KEY.sign(CLAIM)
    witness = f"— witness.example/w {base64.b64encode(bytes(76)).decode()}\n"
    assert check_all(note + witness, KEY.public) == [CLAIM]
    assert check_all(join([note + witness, KEY.sign(Claim("prod", "1", 0, bytes(32)))]), KEY.public)[0] == CLAIM


NOTE = KEY.sign(CLAIM)
LINES = NOTE.splitlines(keepends=True)
FORGED: dict[str, tuple[str, str]] = {
    "nothing": ("", "is empty"),
    "nonsense": ("hello\n", "was cut"),
    "another size": (NOTE.replace("\n3\n", "\n4\n"), "somebody altered it"),
    "another root": (NOTE.replace("AAEC", "BAEC", 1), "somebody altered it"),
    "another environment": (NOTE.replace("run-ledger/dev", "run-ledger/pro"), "signed with another key"),
    "another environment in the origin alone": (NOTE.replace("dev", "pro", 1), "signed with another key"),
    "another epoch": (NOTE.replace("00aa", "00ab"), "signed with another key"),
    "the signature of another key": (OTHER.sign(CLAIM), "signed with another key"),
    "a signature of something else": (
        "".join(LINES[:4]) + KEY.sign(Claim("dev", "00aa", 4, bytes(32))).splitlines(keepends=True)[4],
        "somebody altered it",
    ),
    "cut in the middle of a line": (NOTE[:-10], "its last line does not end"),
    "cut before the end": (NOTE[:-1], "its last line does not end"),
    "no signature": ("".join(LINES[:4]), "was cut"),
    "two lines": ("".join(LINES[:2]), "was cut"),
    "the note twice": (NOTE + "\n" + NOTE, "speaks twice of the environment dev"),
    "two notes of one environment": (
        join([NOTE, KEY.sign(Claim("dev", "00aa", 4, bytes(32)))]),
        "speaks twice of the environment dev",
    ),
    "the signature twice": (NOTE + LINES[4], "is there twice"),
    "the size twice": ("".join([*LINES[:2], *LINES[1:]]), "is no Merkle root"),
    "the root twice": ("".join([*LINES[:3], *LINES[2:]]), "line 4 of the checkpoint is not empty"),
    "a leading zero": (NOTE.replace("\n3\n", "\n03\n"), "line 2 of the checkpoint is no size"),
    "a sign": (NOTE.replace("\n3\n", "\n-3\n"), "line 2 of the checkpoint is no size"),
    "an Arabic digit": (NOTE.replace("\n3\n", "\n٣\n"), "line 2 of the checkpoint is no size"),
    "carriage returns": (NOTE.replace("\n", "\r\n"), "line 1 of the checkpoint names no log"),
    "a space": (NOTE.replace("\n3\n", "\n3 \n"), "line 2 of the checkpoint is no size"),
    "base 64 in another spelling": (NOTE.replace("Hh8=", "Hh9="), "line 3 of the checkpoint is no Merkle root"),
    "a longer root": (NOTE.replace("Hh8=", "Hh8AAAA="), "line 3 of the checkpoint is no Merkle root"),
    "a short signature": ("".join(LINES[:4]) + "— run-ledger/dev/00aa AAAA\n", "is no signature"),
    "another dash": (NOTE.replace("—", "-"), "line 5 of the checkpoint is no signature"),
    "an empty line at the end": (NOTE + "\n", "was cut"),
    "text at the end": (NOTE + "more\n", "line 6 of the checkpoint is no signature"),
    "another log": (NOTE.replace("run-ledger/", "walk-ledger/"), "names no log of Run Ledger"),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_was_forged_or_damaged_is_refused_with_the_reason(name: str) -> None:
    text, words = FORGED[name]
    with pytest.raises(BadCheckpoint, match=re.escape(words)):
        check_all(text, KEY.public)


@thorough
@given(st.integers(0, len(NOTE) - 1), st.characters(codec="utf-8"))
def test_no_character_can_be_another(place: int, character: str) -> None:
    text = NOTE[:place] + character + NOTE[place + 1 :]
    if text != NOTE:
        with pytest.raises(BadCheckpoint):
            check_all(text, KEY.public)


# --- the log ---


async def fill(log: Log, runs: int, name: str = "run") -> None:
    for number in range(runs):
        await create(log, f"{name}_{number}")
        await change(log, f"{name}_{number}", *[Increment(key="n", value=1)] * (number + 2))


def faults(database: Database, text: str) -> list[str]:
    claims = check_all(text, KEY.public)
    return [str(fault) for fault in inspect_database(database.url, lambda view: verify_all(view, claims)).faults]


async def sign(ledger: Ledger) -> str:
    return join(made.note for made in await ledger.checkpoint(KEY))


async def test_the_root_is_that_of_all_event_hashes_in_their_order(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await ledger.log("prod")
    for round_ in range(4):
        await fill(log, round_, f"round_{round_}")
        dev, prod = await ledger.checkpoint(KEY)
        hashes = [row["hash"] for row in database.rows("SELECT hash FROM events ORDER BY position")]
        assert dev.claim == Claim("dev", dev.claim.epoch, len(hashes), naive_root(hashes))
        assert (prod.claim.size, prod.claim.root) == (0, sha256(b"").digest())
        assert read_verifier_key(dev.public_key) == KEY.public
    assert database.value("SELECT count(*) FROM checkpoints") == 4 + 1
    assert await sign(ledger) == await sign(ledger)


async def test_a_checkpoint_reads_only_what_came_after_the_last(
    ledger: Ledger, log: Log, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(log, 5)
    await sign(ledger)
    await fill(log, 1, "late")
    read: list[bytes] = []
    append = CompactRange.append

    def counted(tree: CompactRange, leaf: bytes) -> None:
        read.append(leaf)
        append(tree, leaf)

    monkeypatch.setattr(CompactRange, "append", counted)
    await sign(ledger)
    assert len(read) == 3


async def test_a_log_that_grew_still_begins_with_its_checkpoints(
    ledger: Ledger, log: Log, database: Database
) -> None:
    notes = [await sign(ledger)]
    for round_ in range(5):
        await fill(log, 2, f"round_{round_}")
        notes.append(await sign(ledger))
    await fill(await ledger.log("later"), 1)
    for note in notes:
        assert faults(database, note) == []


async def test_a_checkpoint_by_another_key_takes_the_place_of_one_of_the_same_size(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await fill(log, 2)
    await ledger.checkpoint(OTHER)
    note = await sign(ledger)
    assert database.value("SELECT note FROM checkpoints") == note
    assert faults(database, note) == []


# The last event of the last run, and everything that tells of it, is as if it had never been.
CUT_TAIL = (
    "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
    """
    UPDATE runs SET version = version - 1, metadata = '{"n":4}', unsnapped_bytes = unsnapped_bytes - 121,
    hash = (SELECT hash FROM events ORDER BY position DESC LIMIT 1) WHERE run_id = 'run_3'
    """,
    "UPDATE logs SET last_position = last_position - 1",
    "DELETE FROM checkpoints",
)
DROP_LAST_RUN = (
    "DELETE FROM events WHERE run_key = 4",
    "DELETE FROM runs WHERE run_key = 4",
    "UPDATE logs SET last_run_key = 3, last_position = (SELECT max(position) FROM events)",
    "DELETE FROM checkpoints",
)


@pytest.mark.altered
@pytest.mark.parametrize("deed", [CUT_TAIL, DROP_LAST_RUN], ids=["cut tail", "dropped run"])
async def test_only_a_checkpoint_shows_that_the_end_of_a_log_is_gone(
    ledger: Ledger, log: Log, database: Database, deed: tuple[str, ...]
) -> None:
    await fill(log, 4)
    note = await sign(ledger)
    await ledger.close()
    database.alter(*deed)
    check_sound(database)  # Nothing in the database itself can tell.
    (fault,) = faults(database, note)
    assert re.fullmatch(r"the log of dev: it has 1\d events, and the checkpoint was made of 18", fault)


@pytest.mark.altered
@pytest.mark.only("sqlite")
async def test_an_old_file_that_was_put_back_is_seen_and_so_is_what_was_written_to_it_since(
    ledger: Ledger, log: Log, database: Database, open_ledger: Callable[..., Any], tmp_path: Path
) -> None:
    await fill(log, 2)
    await ledger.close()
    shutil.copy(database.path, tmp_path / "old.db")
    ledger = await open_ledger()
    await fill(await ledger.log("dev"), 2, "more")
    note = await sign(ledger)
    await ledger.close()
    shutil.copy(tmp_path / "old.db", database.path)
    check_sound(database.path)
    assert faults(database, note) == ["the log of dev: it has 7 events, and the checkpoint was made of 14"]
    ledger = await open_ledger()
    await fill(await ledger.log("dev"), 4, "other")
    await ledger.close()
    check_sound(database.path)
    assert faults(database, note) == [
        "the log of dev: its first 14 events are not those that the checkpoint was made of"
    ]


@pytest.mark.altered
async def test_a_changed_epoch_and_a_vanished_environment_are_seen(
    ledger: Ledger, log: Log, database: Database
) -> None:
    await fill(log, 1)
    await fill(await ledger.log("prod"), 1)
    note = await sign(ledger)
    await ledger.close()

    gone = [
        f"DELETE FROM {table} WHERE environment_id = 2"
        for table in ("events", "runs", "logs", "checkpoints", "environments")
    ]
    database.alter(*gone, "UPDATE logs SET epoch = 'other'", "DELETE FROM checkpoints")
    first, second = faults(database, note)
    assert re.fullmatch(
        r"the log of dev: the checkpoint is of its epoch \w+, and it is in epoch 'other' now", first
    )
    assert second == "the log of prod: a checkpoint was made of it, and there is no such environment any more"


DAMAGE: dict[str, tuple[str, str]] = {
    "a root": ("UPDATE checkpoints SET root = zeroblob(32)", "its last checkpoint was damaged"),
    "a range": ("UPDATE checkpoints SET compact_range = zeroblob(64)", "its last checkpoint was damaged"),
    "a short range": ("UPDATE checkpoints SET compact_range = zeroblob(5)", "no compact range"),
    "a cut log": (
        "DELETE FROM events WHERE position > 16; UPDATE logs SET last_position = 16",
        "it says 16 events, and its last checkpoint was made of 18",
    ),
    "a hole": ("DELETE FROM events WHERE position = 20", "position 20 is missing"),
    "a log that says less": ("UPDATE logs SET last_position = 19", "it says 19 events and has 25"),
}


@pytest.mark.altered
@pytest.mark.parametrize("name", DAMAGE)
async def test_nothing_is_signed_that_the_last_checkpoint_contradicts(
    ledger: Ledger, log: Log, database: Database, name: str
) -> None:
    await fill(log, 4)
    await sign(ledger)
    await fill(log, 2, "more")
    script, words = DAMAGE[name]

    database.alter(*script.split("; "))
    with pytest.raises(Unsound, match=words):
        await sign(ledger)


async def test_checkpoints_are_made_beside_writes(ledger: Ledger, log: Log, database: Database) -> None:
    await create(log, "r")
    notes: list[str] = []

    async def sign_on() -> None:
        for _ in range(8):
            notes.append(await sign(ledger))

    async def write_on() -> None:
        for _ in range(60):
            await change(log, "r", Increment(key="n", value=1))

    await asyncio.gather(sign_on(), sign_on(), write_on())
    for note in notes:
        assert faults(database, note) == []
