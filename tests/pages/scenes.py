"""Runs with something to see, made through the API as jobs make them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

HOSTILE = {
    "<script>alert(1)</script>": "<img src=x onerror=alert(2)>",
    "constructor": {"toString": "shown as text"},
    "\u202eltr\u202c": "abc\u202edcb\u2066\u200f",
    "'\"><b>": "{{ 7*7 }} ${7*7} </script></textarea>",
    "emoji 🦉": "👩‍👩‍👧‍👦 🇺🇦 é",
    "null\u0000byte": "\u0000\u001b[31m",
    "a.b": {"c.d": 1, "": {"": 2}},
    "long": "x" * 3_000,
}


class Scenes:
    """
    Makes runs on a server.

    Attributes:
        url: Of the server.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def create(self, run: str, task: str = "import", **members: Any) -> str:
        return self._done(self._http.post("/api/v1/runs", json={"id": run, "task": task, **members}))["id"]  # type: ignore[no-any-return]

    def write(self, run: str, *operations: dict[str, Any], actor: str = "importer", **members: Any) -> int:
        """Change metadata. Returns the run's version."""
        body = {"operations": [*operations], "actor": actor, **members}
        return self._done(self._http.put(f"/api/v1/runs/{run}/metadata", json=body))["version"]  # type: ignore[no-any-return]

    def refused(self, run: str, *operations: dict[str, Any], **members: Any) -> None:
        body = {"operations": [*operations], "actor": "importer", **members}
        assert self._http.put(f"/api/v1/runs/{run}/metadata", json=body).status_code == 413

    def move(self, run: str, status: str, **members: Any) -> None:
        self._done(self._http.post(f"/api/v1/runs/{run}/status", json={"status": status, **members}))

    def erase(self, run: str, key: str) -> None:
        body = {"key": key, "reason": "the person asked for it", "actor": "dpo"}
        self._done(self._http.post(f"/api/v1/runs/{run}/metadata/erase", json=body))

    def report(self, run: str, course: Iterable[tuple[float, float]], ago_s: float, key: str = "progress") -> None:
        """Progress as it was at so many seconds after the beginning, which was *ago_s* seconds before now."""
        beginning = datetime.now(UTC) - timedelta(seconds=ago_s)
        operations = [
            {
                "type": "set",
                "key": key,
                "value": value,
                "occurredAt": (beginning + timedelta(seconds=at)).isoformat(),
            }
            for at, value in course
        ]
        self.write(run, *operations)

    @staticmethod
    def _done(response: httpx2.Response) -> Any:
        assert response.is_success, response.text
        return response.json()


def put(key: str, value: Any) -> dict[str, Any]:
    return {"type": "set", "key": key, "value": value}


def add(key: str, value: Any) -> dict[str, Any]:
    return {"type": "increment", "key": key, "value": value}


def gallery(scenes: Scenes) -> None:
    """A run of each kind that the pages tell apart."""
    scenes.create("queued-import", status="QUEUED", tags=["eu"])
    scenes.create(
        "stalled-export", "export", status="EXECUTING", tags=["nightly", "eu"], metadata={"state": "copying"}
    )
    scenes.report(
        "stalled-export",
        [
            (0, 0),
            (60, 0.05),
            (120, 0.1),
            (180, 0.15),
            (240, 0.2),
            (300, 0.25),
            (1500, 0.26),
            (1560, 0.3),
            (1620, 0.36),
        ]
        + [(1680 + 60 * step, 0.36) for step in range(30)],
        ago_s=3_600,
    )
    scenes.create("went-backwards", "train", status="EXECUTING", metadata={"loss": 2.5, "epoch": 1})
    # What moves reports so seldom that it still moves, and is no stall, at the end of a long session of tests.
    scenes.report("went-backwards", [(step * 200, round(step / 100, 3)) for step in range(62)], ago_s=24_000)
    scenes.report(
        "went-backwards", [(12_500 + step * 200, round(0.2 + step / 90, 3)) for step in range(56)], ago_s=24_000
    )
    scenes.write("went-backwards", *(put("loss", round(2.5 * 0.97**step, 4)) for step in range(60)))
    scenes.create("moving-import", status="EXECUTING", metadata={"user": {"name": "Eric", "id": "user_1234"}})
    scenes.report("moving-import", [(step * 300, round(step / 150, 4)) for step in range(60)], ago_s=18_000)
    scenes.create("parent-pipeline", "pipeline", status="EXECUTING", metadata={"done": 0, "total": 3})
    for number, (status, fraction) in enumerate((("COMPLETED", 1), ("EXECUTING", 0.4), ("QUEUED", 0))):
        child = f"child-{number}"
        scenes.create(child, "step", parentRunId="parent-pipeline", status="EXECUTING", metadata={"progress": 0})
        scenes.write(child, put("progress", fraction), parentOperations=[add("done", 1)] if fraction == 1 else [])
        if status == "COMPLETED":
            scenes.move(child, status)
    scenes.create("second-attempt", "backup", status="EXECUTING", metadata={"progress": 0.1})
    scenes.write("second-attempt", put("progress", 0.6))
    scenes.refused("second-attempt", put("log", "x" * 5_000))
    scenes.move("second-attempt", "FAILED", error={"message": "disk full", "name": "OSError"})
    scenes.move("second-attempt", "EXECUTING", attempt=2)
    scenes.write("second-attempt", put("progress", 0.2), put("note", "started again"), attempt=2)
    scenes.create("erased-parts", "signup", metadata={"user": {"name": "Eric", "mail": "eric@example.org"}})
    scenes.erase("erased-parts", "$.user.mail")
    scenes.move("erased-parts", "CANCELED")
    scenes.create("hostile", "<script>task</script>", metadata=HOSTILE, tags=["<b>tag", "\u202eright"])
    scenes.write(
        "hostile", put("<script>alert(1)</script>", "changed </ins><script>alert(3)</script>"), actor="<i>actor"
    )
    scenes.create(
        "lists", "shape", metadata={"deep": {"a": {"b": {"c": {"d": [1, [2, {"e": None}]]}}}}, "on": True}
    )
    scenes.write("lists", put("steps", [{"name": f"step {n}", "ms": n * 7} for n in range(12)]), put("empty", {}))
    scenes.write(
        "lists", put("$.steps.3.ms", 400), {"type": "remove", "key": "steps", "value": {"name": "step 1", "ms": 7}}
    )
