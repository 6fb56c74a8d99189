"""Runs a batch script with nothing of Slurm behind it: srun, scontrol and the others only write down how they were called.

srun and apptainer go on with the command they were given, so that what a rank's shell makes of it is seen too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCONTROL = """\
#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/scontrol-$1"
case "$*" in
    "show hostnames gpu[07-08]") printf 'gpu07\\ngpu08\\n' ;;
    "show node gpu07") printf 'NodeName=gpu07 Arch=x86_64\\n   NodeAddr=%s NodeHostName=gpu07 Version=1\\n' "${NODE_ADDRESS:-10.0.0.7}" ;;
    requeue*|update*) ;;
    *) exit 1 ;;
esac
"""
SQUEUE = """\
#!/bin/bash
case "$*" in *%x) echo "$EXCLUDED" ;; *) echo "${STATE:-RUNNING None 0}" ;; esac
"""
MODULE = """\
#!/bin/bash
echo "$2" >> "$RECORD/modules"
"""
# Whatever stands before the command of a rank is an option.
STARTER = """\
#!/bin/bash
name=${0##*/}
printf '%s\\0' "$@" > "$RECORD/$name"
while [ $# -gt 0 ] && [ "$1" != bash ] && [ "$1" != apptainer ]; do shift; done
[ $# -gt 0 ] || exit 0
SLURM_NODEID=1 exec "$@"
"""
PYTHON = """\
#!/bin/bash
case "$*" in
    "-m megabatch.launcher.requeue "*)
        printf '%s\\0' "$@" > "$RECORD/decide"
        printf '%s\\n' "$BAD_NODE"
        exit "${DECISION:-0}" ;;
esac
printf '%s\\0' "$@" > "$RECORD/python"
env -0 > "$RECORD/environment"
pwd > "$RECORD/folder"
exit "${CODE:-0}"
"""


@dataclass(frozen=True)
class Ran:
    """How the script ended, and who was called with what."""

    code: int
    errors: str
    calls: Mapping[str, list[str]]


def run_script(
    text: str, jobs: Sequence[str], jail: Path, python: Path | None = None, variables: Mapping[str, str] | None = None
) -> Ran:
    """Run the script with job files as its arguments; `python` is where the interpreter is that it names."""
    programs, record = jail / "programs", jail / "record"
    programs.mkdir(parents=True)
    record.mkdir()
    made = {
        "scontrol": SCONTROL,
        "squeue": SQUEUE,
        "srun": STARTER,
        "apptainer": STARTER,
        "module": MODULE,
        "sleep": "#!/bin/bash\n",
    }
    files = {**{programs / name: content for name, content in made.items()}, **({python: PYTHON} if python else {})}
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    of_slurm = {"JOB_NODELIST": "gpu[07-08]", "JOB_ID": "123456", "NNODES": "2", "CPUS_PER_TASK": "128"}
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(record),
        **{f"SLURM_{name}": value for name, value in of_slurm.items()},
        **(variables or {}),
    }
    done = subprocess.run(
        ["bash", "-s", "--", *jobs], input=text, text=True, capture_output=True, check=False, cwd=jail, env=environment
    )
    calls = {file.name: file.read_text().split("\0")[:-1] or [file.read_text()] for file in record.iterdir()}
    return Ran(done.returncode, done.stderr, calls)
