"""
A progress bar that also reports: `from ledger.integrations.tqdm import tqdm`.

    with run("import"):
        for row in tqdm(rows):
            ...

sets `progress` to `{"n": 500, "total": 1000, "rate": 48.2}` about once a second, whatever the bar itself does. It
reports also where the bar is switched off (`disable=True`, or `disable=None` away from a terminal), and it is an
ordinary bar outside any run.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm as _tqdm

from ledger.handle.metadata import metadata

REPORT_INTERVAL_S = 1.0  # seconds between two reports of a bar, as often as requests leave by default


if TYPE_CHECKING:
    _Bar = _tqdm[Any]
else:
    _Bar = _tqdm


class tqdm(_Bar):  # noqa: N801 - The name that it takes the place of.
    """
    A bar that reports its place.

    Args:
        key: Key or path of the metadata that it sets.
        report_interval_s: Seconds between two reports.

    All other arguments are those of `tqdm.tqdm`.
    """

    def __init__(
        self, *arguments: Any, key: str = "progress", report_interval_s: float = REPORT_INTERVAL_S, **options: Any
    ) -> None:
        self._key = key
        self._report_interval_s = report_interval_s
        self._begun = self._reported = time.monotonic()
        self._last: dict[str, Any] | None = None
        super().__init__(*arguments, **options)
        self._from = self.n
        self._report()

    def __iter__(self) -> Iterator[Any]:
        """Iterate, and report now and then."""
        if not self.disable:
            yield from super().__iter__()
            return
        try:
            for item in self.iterable:  # A bar that is switched off does not count.
                yield item
                self.n += 1
                self._report_in_time()
        finally:
            self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Move the bar, and report now and then."""
        shown = super().update(n)
        if self.disable:
            self.n += n or 0
        self._report_in_time()
        return shown

    def reset(self, total: float | None = None) -> None:
        """Begin again."""
        super().reset(total)
        if self.disable:
            self.n = 0
            self.total = self.total if total is None else total
        self._begun, self._from = time.monotonic(), 0
        self._report()

    def close(self) -> None:
        """End the bar, and report where it stands."""
        if hasattr(self, "_from"):  # Else it was never made.
            self._report()
        super().close()

    def _report_in_time(self) -> None:
        if time.monotonic() - self._reported >= self._report_interval_s:
            self._report()

    def _report(self) -> None:
        """Say where the bar stands; what was said already is not said twice."""
        self._reported = time.monotonic()
        elapsed_s = self._reported - self._begun
        rate = (self.n - self._from) / elapsed_s if elapsed_s > 0 and self.n > self._from else None
        place = {"n": self.n, "total": self.total}
        if place != self._last:
            self._last = place
            metadata.set(self._key, {**place, "rate": None if rate is None else float(f"{rate:.4g}")})
