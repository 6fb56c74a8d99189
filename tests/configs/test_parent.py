"""No process is left behind, whatever ended the one that started it. Played in a process of its own: this one has others."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

_SCENE = """
import os, signal, subprocess, sys, time
from megabatch.configs.parent import adopt_orphans, descendants, end_leftovers

adopt_orphans()
other = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
others = descendants(os.getpid())
launcher = subprocess.Popen([sys.executable, "-c", '''
import subprocess, time
rank = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(rank.pid, flush=True)
time.sleep(1000)
'''], stdout=subprocess.PIPE, text=True)
rank = int(launcher.stdout.readline())
launcher.kill()
launcher.wait()
end_leftovers(but=others)
print(rank, other.pid, other.poll())
"""


def test_what_a_killed_launcher_leaves_is_ended_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_SCENE)], capture_output=True, text=True, check=True, timeout=60
    )
    rank, other, ended = done.stdout.split()
    assert not Path(f"/proc/{rank}").exists()
    assert ended == "None"
    subprocess.run(["kill", other], check=True)


def test_what_is_about_to_end_is_let_end() -> None:
    scene = (
        "import os, subprocess; from megabatch.configs.parent import adopt_orphans, end_leftovers; adopt_orphans(); "
        "subprocess.Popen(['sh', '-c', '(sleep 0.2; echo done) &']).wait(); end_leftovers()"
    )
    done = subprocess.run([sys.executable, "-c", scene], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "done\n"
