"""The command that copies a live database."""

from pathlib import Path
from typing import Annotated

import typer

from api.client import Failed
from api.proof_commands import database_url_of, verify_whole
from api.terminal import DatabaseUrl
from ledger.master import secret_file


def add_to(cli: typer.Typer) -> None:
    """Make the command part of *cli*."""
    cli.command()(backup)


def backup(
    out: Annotated[Path, typer.Option(metavar="FILE", help="What the copy is to be called.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Copy a SQLite database while others work with it, and verify the copy. Exit code 0 only if it is sound."""
    from ledger.backup import back_up  # noqa: PLC0415 - Loads the database driver.
    from ledger.errors import Unavailable  # noqa: PLC0415
    from ledger.inspection import existing_file  # noqa: PLC0415

    url = database_url_of(database_url)
    database = existing_file(url)
    if database is None:
        raise Failed("this copies a SQLite file; of PostgreSQL take a base backup or pg_dump: see docs/scaling.md")
    try:
        back_up(database, out)
    except FileExistsError as error:
        raise Failed(f"{out} exists; give the copy another name") from error
    except Unavailable as error:
        raise Failed(f"there is no copy: {error}") from error
    except OSError as error:
        raise Failed(f"there is no copy: cannot write {error.filename or out}: {error.strerror}") from error
    print(f"copied {database} to {out}")
    secret = secret_file(database)
    if secret.exists():
        print(f"its API keys work with {secret} only, which is not in it: keep that too, elsewhere")
    verify_whole(f"sqlite+aiosqlite:///{out.absolute()}", ())
