"""Imports go one way: api -> ledger -> projections. Importing the ledger never loads the API."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "projections": {"projections"},
    "ledger": {"ledger", "projections"},
    "api": {"api", "ledger", "projections"},
}


def imported_packages(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_down_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    upwards = {
        str(file.relative_to(ROOT)): sorted(up)
        for file in files
        if (up := imported_packages(file.read_text()) & set(ALLOWED) - ALLOWED[package])
    }
    assert upwards == {}


def test_the_pure_core_imports_nothing_that_reaches_outside() -> None:
    forbidden = {
        "sqlalchemy",
        "sqlite3",
        "asyncio",
        "starlette",
        "httpx2",
        "os",
        "time",
        "random",
        "secrets",
        "logging",
    }
    reached = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in (ROOT / "projections").rglob("*.py")
        if (found := imported_packages(file.read_text()) & forbidden)
    }
    assert reached == {}


def test_importing_the_ledger_does_not_load_the_api() -> None:
    code = "import sys, ledger, ledger.ledger; sys.exit(any(name.split('.')[0] == 'api' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
