"""What a rank prints goes to its log, which does not grow for ever; a reader that follows misses no line of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from megabatch.launcher.run_logs import Reader

_SCENE = """
import os, subprocess, sys
from pathlib import Path
from megabatch.trainer import rank_log

log = Path(sys.argv[1])
rank_log.MOST_BYTES = 200
rank_log.redirect_output(log, terminal=True)
print("for the terminal", flush=True)
for number in range(40):
    os.write(2, f"line {number}\\n".encode())
    rank_log.begin_anew_if_large(log, [2])
    if number % 7 == 0:
        print(number, flush=True)
        sys.stdin.readline()
subprocess.run(["sh", "-c", "echo a child >&2"])
print("end", flush=True)
"""


def test_a_log_is_begun_anew_when_it_is_large_and_a_reader_misses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "rank-00000.log"
    reader = Reader(lambda: [("", log)])
    rank = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SCENE), str(log)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert rank.stdin is not None
    assert rank.stdout is not None
    assert rank.stdout.readline() == "for the terminal\n"
    read = []
    while rank.stdout.readline() != "end\n":
        read += list(reader.new_lines())
        rank.stdin.write("\n")
        rank.stdin.flush()
    rank.communicate()
    assert rank.returncode == 0
    read += list(reader.new_lines(also_unfinished=True))
    assert read == [*(f"line {number}" for number in range(40)), "a child"]
    aside = log.with_name("rank-00000.log.1")
    assert 200 < aside.stat().st_size < 220
    assert log.stat().st_size < 220
    assert list(Reader(lambda: [("", log)]).new_lines())[-1] == "a child"


_LEFT_ALONE = """
import os, sys, time
from pathlib import Path
from megabatch.trainer import rank_log

log = Path(sys.argv[1])
rank_log.MOST_BYTES, rank_log._LOOK_SECONDS = 200, 0.01
rank_log.redirect_output(log, terminal=True)
deadline = time.monotonic() + 60
while not log.with_name("rank-00000.log.1").exists() and time.monotonic() < deadline:
    os.write(2, b"a line\\n")
    time.sleep(0.001)
"""


def test_a_rank_looks_after_its_log_by_itself(tmp_path: Path) -> None:
    log = tmp_path / "rank-00000.log"
    subprocess.run([sys.executable, "-c", _LEFT_ALONE, str(log)], check=True, timeout=120)
    assert log.with_name("rank-00000.log.1").exists()
