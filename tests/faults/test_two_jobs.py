"""F33: one run folder, started again while a job has it. One job trains; every other one is refused and harms nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.configs.run_lock import RunFolderError, take

ROUNDS, JOBS = 5, 8
TAKER = """
import sys, time
from pathlib import Path
from megabatch.configs.run_lock import RunFolderInUseError, take

sys.stdin.readline()
try:
    lock = take(Path(sys.argv[1]))
except RunFolderInUseError as error:
    print(error, flush=True)
    sys.exit(2)
print("taken", flush=True)
time.sleep(600)
"""


def test_of_jobs_that_want_a_folder_at_once_one_gets_it_and_after_its_kill_the_next(tmp_path: Path) -> None:
    """Eight at a time, five times over; each time the one that had it is killed with -9."""
    command = [sys.executable, "-c", TAKER, str(tmp_path / "run.lock")]
    for _ in range(ROUNDS):
        jobs = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(JOBS)
        ]
        for job in jobs:
            assert job.stdin is not None
            job.stdin.write("go\n")
            job.stdin.flush()
        told = {job: job.stdout.readline() for job in jobs if job.stdout is not None}
        (first,) = [job for job, line in told.items() if line == "taken\n"]
        first.kill()
        for job in jobs:
            job.communicate(timeout=60)
            assert job.returncode == (-signal.SIGKILL if job is first else 2)
            if job is not first:
                assert f"{tmp_path} is in use by " in told[job]
                assert "two jobs must not write to one run folder" in told[job]


def test_a_file_system_without_locks_is_told_from_a_folder_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(RunFolderError, match=r"cannot be locked: Function not implemented\. .* mount it with -o flock"):
        take(tmp_path / "run.lock")
