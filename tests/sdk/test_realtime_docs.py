"""What docs/realtime.md shows is run as it stands, with a key and without."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.api.keys import Keyed
from tests.api.server import PATIENCE_S, ROOT, environment, serving
from tests.api.service import MASTER, service
from tests.sdk.conftest import migrated
from tests.sdk.node import binaries, fetch

PAGE = (ROOT / "docs" / "realtime.md").read_text()
(EXAMPLE,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
(SHOWN,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("with_key", [True, False])
def test_the_example_prints_what_the_page_says(tmp_path: Path, with_key: bool) -> None:
    path = migrated(tmp_path)
    variables = {}
    if with_key:
        with service(path) as api:
            variables["RUN_LEDGER_API_KEY"] = Keyed(api, "prod").text
    (tmp_path / "node_modules").symlink_to(fetch())
    with serving(path, RUN_LEDGER_SECRET=MASTER.decode()) as server:
        (tmp_path / "follow.mjs").write_text(EXAMPLE.replace("8420", str(server.port)))
        done = subprocess.run(
            [binaries().node, "follow.mjs"],
            cwd=tmp_path,
            env=environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    # Nothing is forbidden in a ledger without keys: there the run that does not exist is said to be none.
    assert done.stdout == (SHOWN if with_key else SHOWN.replace("403", "404")), done.stderr
    assert done.returncode == 0
