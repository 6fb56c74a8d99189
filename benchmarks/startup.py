"""How long a command takes before it has said anything: `megabatch --help` and `megabatch plan`, as whole processes.

python benchmarks/startup.py          # in a folder with data/digits, for the plan
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
COMMANDS = (["--help"], ["plan", "digits"])
TARGETS = {"--help": 0.2, "plan": 1.0}


def main() -> None:
    """Print minimum, median and maximum of each command, and the target."""
    for arguments in COMMANDS:
        seconds = []
        for _ in range(RUNS):
            started = time.perf_counter()
            done = subprocess.run(["megabatch", *arguments], capture_output=True, check=False)
            seconds.append(time.perf_counter() - started)
            if done.returncode:
                sys.exit(f"megabatch {' '.join(arguments)}: {done.stderr.decode()}")
        name = " ".join(["megabatch", *arguments])
        print(
            f"{name:24} min {min(seconds):.3f}  median {statistics.median(seconds):.3f}  max {max(seconds):.3f} s"
            f"  target below {TARGETS[arguments[0]]} s"
        )


if __name__ == "__main__":
    main()
