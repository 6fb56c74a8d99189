"""Feeds mutated files to everything that reads files, and counts what came of it (support/fuzz_kinds.py).

    python tests/faults/fuzz.py --cases 100000 --seed 0 configs tars
    python tests/faults/fuzz.py --cases 10000

A case fails by an exception that is not a message of ours, by more than `HANG_SECONDS`, by more memory than
`MOST_MIB` above what the start took, or by what the kind says must not be. The seed of a failed case repeats it.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fuzz_kinds import KINDS, Case

HANG_SECONDS = 20.0
MOST_MIB = 256
_SHOWN = 5


@dataclass
class Report:
    """What became of the cases of one kind."""

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    seconds: float = 0.0
    mib: float = 0.0

    def __str__(self) -> str:
        """Return a line for a person, and the first failures."""
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(self.outcomes.items()))
        line = (
            f"{self.kind}: {counts}, {len(self.failed):,} failed; {self.seconds:.0f} s, slowest {self.slowest:.2f} s, "
            f"{self.mib:.0f} MiB more than at the start"
        )
        return "\n".join([line, *self.failed[:_SHOWN]])


class HangError(Exception):
    """A case took too long."""


def fuzz(kind: str, cases: int, seed: int, folder: Path) -> Report:
    """Try seeds `seed` to `seed + cases - 1` of a kind."""
    report = Report(kind)
    own = folder / kind
    own.mkdir()
    case = KINDS[kind](own)
    case(seed)  # what is imported and cached at first use is no memory of a case
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, _hang)
    try:
        for number in range(seed, seed + cases):
            _try(case, number, report)
    finally:
        signal.signal(signal.SIGALRM, previous)
    report.seconds = time.monotonic() - started
    report.mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if report.mib > MOST_MIB:
        report.failed.append(f"{report.mib:.0f} MiB were taken, at most {MOST_MIB} may be")
    return report


def _try(case: Case, seed: int, report: Report) -> None:
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        report.outcomes[case(seed)] += 1
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error!s:.300}"
        report.failed.append(f"  seed {seed}: {said} ({Path(last.filename).name}:{last.lineno})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    report.slowest = max(report.slowest, time.monotonic() - started)


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"more than {HANG_SECONDS:.0f} s")


def main() -> int:
    """Fuzz the kinds that are named, and return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow warns of odd metadata
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.kinds or KINDS:
            reports.append(fuzz(kind, arguments.cases, arguments.seed, Path(folder)))
            print(reports[-1], flush=True)
    return int(any(report.failed for report in reports))


if __name__ == "__main__":
    sys.exit(main())
