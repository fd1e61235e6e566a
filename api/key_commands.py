"""The commands about API keys: create, list and revoke, on the database itself."""

import time
from typing import Annotated, Any

import typer

from api.client import without_controls
from api.terminal import AsJson, DatabaseUrl, EnvironmentName, local_time, print_json, print_table
from ledger.settings import BadSettings, Settings, load_settings
from projections.times import Microseconds


def add_to(cli: typer.Typer) -> None:
    """Make these commands part of *cli*."""
    keys = typer.Typer(
        help="API keys: who may read and write over HTTP, in which environment. "
        "The first key closes an open ledger.",
        no_args_is_help=True,
    )
    keys.command("create")(create)
    keys.command("list")(list_all)
    keys.command("revoke")(revoke)
    cli.add_typer(keys, name="keys")


def create(
    name: Annotated[
        str | None, typer.Option(help="What the history shows as the actor; the key's id unless given.")
    ] = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="What it may do: read, write, erase or admin, each alone or such as read:tasks:import or "
            "write:tags:nightly; may be given several times. Without it: read and write.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="30d, 12h, or a time such as 2027-01-31T00:00:00Z.")
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Make an API key. Its last line of output is the key, which is shown this once."""
    from api.keys import create_key, key_members  # noqa: PLC0415 - Loads the database driver.

    settings = _database_settings(database_url, environment)
    made = create_key(settings, name, scopes or ("read", "write"), expires, _now())
    members = key_members(made.key, _now())
    if as_json:
        print_json({**members, "key": made.text})
        return
    until = f"until {local_time(members['expiresAt'])}" if members["expiresAt"] else "until it is revoked"
    print(
        f"key {made.key.id} of environment {made.key.environment.name}, called {without_controls(made.key.name)}, "
        f"may {without_controls(', '.join(made.key.scopes))}, {until}"
    )
    if made.is_first:
        print("it is the first one: from now on every request to this ledger needs a key")
    print("keep it now, it is not shown again:")
    print(made.text)


def list_all(
    as_json: AsJson = False, database_url: DatabaseUrl = None, environment: EnvironmentName = None
) -> None:
    """Show the API keys of all environments, or of one; never their secrets."""
    from api.keys import key_members, list_keys  # noqa: PLC0415 - As above.

    now = _now()
    found = [key_members(key, now) for key in list_keys(_database_settings(database_url, environment))]
    if as_json:
        print_json(found)
        return
    columns = ("id", "environment", "name", "state", "created", "last used", "scopes")
    print_table(columns, [_key_cells(key) for key in found])


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as 'keys list' shows it.")],
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
    environment: EnvironmentName = None,
) -> None:
    """Let an API key open nothing any more, from the next request on. It cannot be undone."""
    from api.keys import key_members, revoke_key  # noqa: PLC0415 - As above.

    members = key_members(revoke_key(_database_settings(database_url, environment), key_id), _now())
    if as_json:
        print_json(members)
        return
    print(f"key {members['id']} of environment {members['environment']} is revoked")


def _key_cells(key: dict[str, Any]) -> tuple[str, ...]:
    if key["revokedAt"]:
        state = f"revoked {local_time(key['revokedAt'])}"
    elif key["expiresAt"]:
        state = f"{'expires' if key['isValid'] else 'expired'} {local_time(key['expiresAt'])}"
    else:
        state = "valid"
    used = local_time(key["lastUsedAt"]) if key["lastUsedAt"] else "never"
    scopes = ", ".join(key["scopes"])
    return (key["id"], key["environment"], key["name"], state, local_time(key["createdAt"]), used, scopes)


def _database_settings(database_url: str | None, environment: str | None) -> Settings:
    """Settings for what only the database itself can do."""
    settings = load_settings(database_url=database_url, environment=environment)
    if settings.url is not None and "database_url" not in settings.model_fields_set:
        raise BadSettings(
            "RUN_LEDGER_URL names a server, but keys are made in its database; "
            "run this where the database is, and name it with --database-url"
        )
    return settings


def _now() -> Microseconds:
    return time.time_ns() // 1_000
