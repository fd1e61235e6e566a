"""The commands that prove, and the two that change what is stored: verify, checkpoint, erase and rebuild."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from api.client import Client, Failed, path_of, without_controls
from api.reports import report_members, verified_members
from api.terminal import (
    AsJson,
    DatabaseUrl,
    EnvironmentName,
    local_time,
    one_line,
    print_json,
    run_work,
)
from ledger.settings import Settings, load_settings
from projections.errors import BadPath
from projections.paths import Path as KeyPath
from projections.paths import literal, parse_key

_WHERE_POSTGRES_KEEPS_IT = (
    "PostgreSQL keeps it in dead rows until VACUUM FULL events, snapshots, runs, refusals, idempotency; "
    "and in its write-ahead log, archives and standbys until these have gone past it"
)
KEY_SUFFIX = ".checkpoint-key"  # The private key lies beside the database's file under its name and this.
NAMED_AT_MOST = 10  # erasures that are printed one by one


def add_to(cli: typer.Typer) -> None:
    """Make these commands part of *cli*."""
    cli.command()(verify)
    cli.command()(checkpoint)
    cli.command()(erase)
    cli.command()(rebuild)


def verify(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only this run.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A signed checkpoint that today's log has to begin with.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(
            help="The key that the checkpoint was signed with, or a file that holds it.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Verify every event, head and snapshot. Exit code 0 only if all is sound, else 1 and the first bad event."""
    if run_id is not None:
        if checkpoint is not None:
            raise Failed("a checkpoint is of the whole log; leave out the run, or --checkpoint")
        _verify_run(run_id, as_json, database_url, environment)
        return
    if environment is not None:
        raise Failed("--environment says where a run is; without a run, every environment is verified")
    if public_key is not None and checkpoint is None:
        raise Failed("--public-key is for --checkpoint FILE, which is missing")
    from ledger.inspection import existing_file  # noqa: PLC0415 - Loads the database driver.

    url = database_url_of(database_url)
    path = existing_file(url)
    verify_whole(url, [] if checkpoint is None else _claims(checkpoint, public_key, path), as_json=as_json)


def verify_whole(url: str, claims: Sequence[Any], *, as_json: bool = False) -> None:
    """
    Verify everything in a database, and what signed checkpoints say of it, and print what was found.

    Raises:
        Failed: It is not sound.
    """
    from ledger.inspection import events_in, verify_database  # noqa: PLC0415 - As above.

    with _progress("verifying", lambda: 2 * events_in(url)) as advance:
        report = verify_database(url, claims, advance)
    if as_json:
        counts = {"environments": report.environments, "runs": report.runs, "events": report.events}
        print_json({"verified": report.is_sound, **counts, **report_members(report)})
    else:
        environments = ", ".join(report.environments) or "no environment"
        print(f"{_count(report.events, 'event')} of {_count(report.runs, 'run')} in {environments}")
        _print_erasures(report)
        if report.is_sound:
            for claim in claims:
                print(f"{claim.environment} still begins with the {_count(claim.size, 'event')} of the checkpoint")
            print("sound: every hash, head, snapshot and position is what the events make")
    _fail_unless_sound(report, as_json=as_json)


def checkpoint(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it; keep it elsewhere.")],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The private key in PEM form; made beside the database at first need."),
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Sign how many events every log has and what their hashes make, to keep elsewhere."""
    from ledger.checkpoint import SigningKey, join, write_new  # noqa: PLC0415 - Load cryptography.
    from ledger.errors import BadCheckpoint  # noqa: PLC0415
    from ledger.inspection import existing_file  # noqa: PLC0415
    from ledger.ledger import Checkpoint, Ledger  # noqa: PLC0415
    from ledger.store import shown  # noqa: PLC0415

    url = database_url_of(database_url)
    database = existing_file(url)
    if out.exists():
        raise Failed(f"{out} exists; an older checkpoint is evidence, so give this one another name")
    if key is None and database is None:
        raise Failed("name the private key with --key; only beside a SQLite file one is made by itself")
    key_file = key or _key_file(cast("Path", database))
    signing = SigningKey.load(key_file) if key is not None else SigningKey.load_or_make(key_file)

    async def work(ledger: Ledger) -> list[Checkpoint]:
        return await ledger.checkpoint(signing)

    made = _with_ledger(url, work)
    public = "".join(f"{one.public_key}\n" for one in made)
    try:
        write_new(out, join(one.note for one in made).encode())
        _public_file(key_file).write_text(public)
    except OSError as error:
        raise BadCheckpoint(f"cannot write {error.filename}: {error.strerror}") from error
    if as_json:
        print_json(
            [
                {
                    "environment": one.claim.environment,
                    "size": one.claim.size,
                    "root": one.claim.root.hex(),
                    "publicKey": one.public_key,
                }
                for one in made
            ]
        )
        return
    for one in made:
        print(f"{one.claim.environment}: {_count(one.claim.size, 'event')}, root {one.claim.root.hex()}")
    print(f"written to {out}; keep it where nobody who can write to {database or shown(url)} can change it")
    print(f"public key (also in {_public_file(key_file)}), to keep with it:")
    print(public, end="")


def erase(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)] = None,
    key: Annotated[str | None, typer.Option(help="What to erase, with all below it: a key, or a path.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why. It is recorded for ever.")] = None,
    actor: Annotated[str | None, typer.Option(help="Your name, for the record.")] = None,
    take_literally: Annotated[
        bool, typer.Option("--literal", help="The key is no path, although it starts with $. (a dot).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    sweep_only: Annotated[
        bool, typer.Option("--sweep", help="Only write the file anew, after an erasure that could not.")
    ] = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Erase what ever stood at a key of a run, for good: from its events, its metadata and the file."""
    from ledger.inspection import existing_file  # noqa: PLC0415 - Loads the database driver.

    if sweep_only:
        database = existing_file(database_url_of(database_url))
        if run_id is not None or key is not None or reason is not None:
            raise Failed("--sweep erases nothing by itself; leave out the run, --key and --reason")
        if database is None:
            raise Failed(f"--sweep is for a SQLite file; {_WHERE_POSTGRES_KEEPS_IT}")
        _sweep(database)
        return
    settings = load_settings(database_url=database_url, environment=environment)
    database = None if settings.url is not None else existing_file(settings.database_url)
    if run_id is None or key is None or reason is None:
        raise Failed("say what to erase and why: run-ledger erase RUN --key KEY --reason TEXT")
    path = _path(key, take_literally)
    if not yes and sys.stdin.isatty() and sys.stdout.isatty():
        asked = without_controls(f"Erase {path} from every event of {run_id}? It cannot be undone.")
        if not typer.confirm(asked):
            raise Failed("nothing was erased")
    if settings.url is not None:
        body = {"key": key, "reason": reason, "literal": take_literally}

        async def work(client: Client) -> None:
            named = body if actor is None else {**body, "actor": actor}
            erased = await client.send("POST", path_of(run_id, "metadata/erase"), named)
            _print_erased(path, run_id, erased["erased"], erased["version"])

        run_work(work, database_url, environment)
        print(
            "The server's files may hold it still, in free pages: there, stop the server and run: "
            "run-ledger erase --sweep"
        )
    else:
        _erase_in(settings, run_id, path, reason, actor)
        if database is not None:
            _sweep(database)
        else:
            print(f"What was erased is in no answer any more; {_WHERE_POSTGRES_KEEPS_IT}")
    copied = "them" if database is None else "this file"
    print(f"Backups, exports and copies of {copied} still hold it, and so may logs of programs that read it.")


def rebuild(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what differs.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Fold every run anew from its events and compare it with what is stored. Exit code 1 if anything differs."""
    from ledger.inspection import compare_database, events_in, existing_file  # noqa: PLC0415 - As above.
    from ledger.ledger import Ledger  # noqa: PLC0415

    url = database_url_of(database_url)
    existing_file(url)
    with _progress("folding", lambda: events_in(url)) as advance:
        differences = compare_database(url, advance)
    for difference in differences:
        for fault in difference.faults:
            print(one_line(str(fault)))
    if not differences:
        print("every head and snapshot is what its events make")
        return
    count = _count(len(differences), "run")
    repairable = [difference for difference in differences if difference.is_repairable]
    lost = len(differences) - len(repairable)
    if not repair:
        can = (
            "none of them can be repaired"
            if not repairable
            else "run-ledger rebuild --repair puts right what it can"
        )
        differs = "differs from its" if len(differences) == 1 else "differ from their"
        raise Failed(f"{count} {differs} events; {can}")

    async def work(ledger: Ledger) -> None:
        with _progress("repairing", lambda: len(repairable)) as advance:
            for difference in repairable:
                await ledger.repair(difference)
                advance(1)

    if repairable:
        _with_ledger(url, work)
        print(f"repaired {_count(len(repairable), 'run')}")
    if lost:
        raise Failed(
            f"{lost:,} of {count} cannot be repaired, because the events do not verify; see run-ledger verify"
        )


# --- what they share ---


def _erase_in(settings: Settings, run_id: str, path: KeyPath, reason: str, actor: str | None) -> None:
    from ledger.answers import Erased  # noqa: PLC0415
    from ledger.ledger import Ledger  # noqa: PLC0415 - As above.
    from ledger.writes import ANONYMOUS, Caller  # noqa: PLC0415

    async def work(ledger: Ledger) -> Erased:
        log = await ledger.existing_log(settings.environment, run_id)
        try:
            return await log.erase(run_id, path, reason, Caller(actor=actor or ANONYMOUS))
        except ValueError as error:
            raise Failed(str(error)) from error

    erased = _with_ledger(settings.database_url, work)
    _print_erased(path, run_id, erased.events, erased.version)


def _print_erased(path: KeyPath, run_id: str, events: int, version: int) -> None:
    print(
        without_controls(
            f"erased {path} from {_count(events, 'event')} of {run_id}, which is at version {version} now"
        )
    )


def _verify_run(run_id: str, as_json: bool, database_url: str | None, environment: str | None) -> None:
    if load_settings(database_url=database_url, environment=environment).url is not None:

        async def work(client: Any) -> None:
            _print_verified(await client.get(path_of(run_id, "verify")), as_json)

        run_work(work, database_url, environment)
        return
    from ledger.inspection import existing_file, verify_one_run  # noqa: PLC0415 - As above.

    settings = _settings(database_url, environment)
    existing_file(settings.database_url)
    version, report = verify_one_run(settings.database_url, settings.environment, run_id)
    _print_verified(verified_members(run_id, version, report), as_json)


def _print_verified(answer: dict[str, Any], as_json: bool) -> None:
    run_id = answer["runId"]
    if as_json:
        print_json(answer)
    else:
        for one in answer["erased"]:
            print(one_line(_erasure(one)))
    if answer["verified"]:
        if not as_json:
            print(f"{run_id} is sound: version {answer['version']}, {_count(answer['events'], 'event')}")
        return
    fault = answer["fault"]
    where = f"run {run_id}" if fault["version"] is None else f"run {run_id}, version {fault['version']}"
    raise Failed(f"{_faults(answer['faultCount'])} {where}: {fault['what']}")


def _print_erasures(report: Any) -> None:
    members = report_members(report)["erased"]
    for one in members[:NAMED_AT_MOST]:
        print(one_line(f"run {one['runId']} ({one['environment']}): {_erasure(one)}"))
    if report.erasure_count > NAMED_AT_MOST:
        print(f"and {report.erasure_count - NAMED_AT_MOST:,} more erasures; --json lists up to a thousand")


def _erasure(one: dict[str, Any]) -> str:
    events, when = _count(one["events"], "event"), local_time(one["recordedAt"])
    return f"{one['key']} was erased from {events} at {when} by {one['actor']}: {one['reason']}"


def _fail_unless_sound(report: Any, *, as_json: bool) -> None:
    if report.is_sound:
        return
    if not as_json:
        for fault in report.faults:
            print(one_line(str(fault)))
        if report.fault_count > len(report.faults):
            print(f"and {report.fault_count - len(report.faults):,} more")
    raise Failed(f"{_faults(report.fault_count)} {report.faults[0]}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _faults(count: int) -> str:
    return "NOT sound, 1 fault:" if count == 1 else f"NOT sound, {count:,} faults, the first:"


def _claims(file: Path, public_key: str | None, database: Path | None) -> list[Any]:
    from ledger.checkpoint import FILE_BYTES_MAX, SigningKey, check_all, read_verifier_key  # noqa: PLC0415

    if public_key is None:
        key_file = None if database is None else _key_file(database)
        if key_file is None or not key_file.exists():
            raise Failed("which key was the checkpoint signed with? Name it with --public-key")
        public = SigningKey.load(key_file).public
    else:
        given = Path(public_key)
        public = read_verifier_key(_read(given, FILE_BYTES_MAX) if "+" not in public_key else public_key)
    return check_all(_read(file, FILE_BYTES_MAX), public)


def _read(file: Path, bytes_max: int) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(bytes_max + 1)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from error
    if len(raw) > bytes_max:
        raise Failed(f"{file} is over {bytes_max:,} bytes, which nothing that is wanted here has")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Failed(f"{file} is not UTF-8 text") from error


def _sweep(database: Path) -> None:
    """Leave nothing of what was erased in the file, or say how."""
    from ledger.errors import Unavailable  # noqa: PLC0415 - As above.
    from ledger.sqlite import sweep  # noqa: PLC0415

    try:
        swept = sweep(database)
    except Unavailable as error:
        raise Failed(
            f"what was erased may still be in free pages of {database}: the file could not be written anew "
            f"({error.__cause__ or error}). Make room for a second copy of it, then run run-ledger erase --sweep"
        ) from error
    if swept:
        print(f"{database} was written anew; nothing of it is left in the file, its -wal or its -shm")
        return
    print(
        f"Another process has {database} open, so what was erased may still be in its free pages and its -wal. "
        "Stop that process, then run: run-ledger erase --sweep"
    )


def _path(key: str, take_literally: bool) -> KeyPath:
    try:
        return literal(key) if take_literally else parse_key(key)
    except BadPath as error:
        raise Failed(str(error)) from error


def _key_file(database: Path) -> Path:
    return database.with_name(database.name + KEY_SUFFIX)


def _public_file(key_file: Path) -> Path:
    return key_file.with_name(f"{key_file.name}.pub")


def _settings(database_url: str | None, environment: str | None = None) -> Settings:
    settings = load_settings(database_url=database_url, environment=environment)
    if settings.url is not None:
        raise Failed(
            "this needs the database itself, and RUN_LEDGER_URL names a server; leave RUN_LEDGER_URL out, "
            "on the machine that has the database"
        )
    return settings


def database_url_of(database_url: str | None) -> str:
    """The database that the options and settings name; a server will not do."""
    return _settings(database_url).database_url


def _with_ledger(url: str, work: Callable[[Any], Any]) -> Any:
    """Open the database, carry out *work* and close it."""
    from ledger.ledger import Ledger  # noqa: PLC0415 - As above.

    logging.getLogger("ledger").setLevel(logging.ERROR)  # Warnings are for those who run a server.

    async def opened() -> Any:
        ledger = await Ledger.open(url)
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    return asyncio.run(opened())


@contextmanager
def _progress(what: str, count: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=count())
        yield lambda more: progress.advance(task, more)
