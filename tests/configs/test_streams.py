"""What a rank prints may be lost; the training is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from rich.console import Console
from megabatch.configs.streams import outlive_readers
outlive_readers()
for line in range(1000):
    print("a line that somebody may want to read", line)
    Console().print("and one of rich")
sys.stderr.write("went on")
"""


def test_a_closed_pipe_and_a_full_disk_end_nothing() -> None:
    reader, closed = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w", encoding="utf-8") as full, os.fdopen(closed, "w", encoding="utf-8") as pipe:
        for output in (full, pipe):
            done = subprocess.run(
                [sys.executable, "-c", CODE], stdout=output, stderr=subprocess.PIPE, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, "went on")


def test_what_can_be_written_is_written_whole() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 2000
    assert "read 999\nand one of rich\n" in done.stdout
