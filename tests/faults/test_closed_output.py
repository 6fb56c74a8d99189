"""F37: what is printed goes nowhere: output closed, a pager that was left, a full disk. The training goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.runs import Workplace, environment, losses
from support.training import training

pytestmark = pytest.mark.processes
OUTPUTS = {"closed": ">&- 2>&-", "on-a-full-disk": "> /dev/full 2> /dev/full"}


def nobody_reads() -> int:
    """Return the end of a pipe into which writing fails."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_a_training_whose_output_nobody_reads_trains_the_same(workplace: Workplace) -> None:
    """Three single ranks at once: closed, on a full disk, and with a pager that was left."""
    runs = {name: workplace.job(f"output-{name}", 1) for name in (*OUTPUTS, "left-by-a-pager")}
    pipe = nobody_reads()
    started = {name: workplace.start_alone(runs[name], f"exec {shell}") for name, shell in OUTPUTS.items()}
    started["left-by-a-pager"] = workplace.start_alone(runs["left-by-a-pager"], stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert {name: process.wait(timeout=300) for name, process in started.items()} == dict.fromkeys(runs, 0)
    with training(workplace, "output-read") as parts:
        loop.train(parts)
        expected = losses(parts.run_dir)
    for name, run_dir in runs.items():
        assert losses(run_dir) == expected, name
        assert run_dir.result.exists()
        assert not run_dir.failures()


@pytest.mark.parametrize("output", ["closed", "on-a-full-disk", "left-by-a-pager"])
def test_a_launch_whose_output_nobody_reads_comes_to_its_end(workplace: Workplace, output: str) -> None:
    """`megabatch launch ... | head -1` must not end before the ranks are started."""
    run_dir = RunDir(workplace.folder / f"launched-{output}")
    code = "from megabatch.launcher.cli import main; main()"
    arguments = ["launch", "recipe.yaml", "--dry-run", "--write", str(run_dir.root)]
    shell = f'exec "$0" "$@" {OUTPUTS.get(output, "")}'
    pipe = nobody_reads()
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, "-c", code, *arguments],
        cwd=workplace.folder, env=environment(), stdout=pipe, stderr=pipe, check=False, timeout=60,
    )  # fmt: skip
    os.close(pipe)
    assert done.returncode == 0
    assert run_dir.job.exists()


def test_a_closed_number_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    """A file opened while standard output is closed would get its number, and be printed into."""
    code = (
        "from megabatch.configs.streams import outlive_readers; outlive_readers(); "
        "import subprocess; file = open('file', 'w'); print('printed', flush=True); subprocess.run(['echo', 'by a child'])"
    )
    shell = 'exec "$0" -c "$1" >&-'
    subprocess.run(["bash", "-c", shell, sys.executable, code], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "file").read_bytes() == b""
