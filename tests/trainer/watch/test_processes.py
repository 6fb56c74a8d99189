"""Is that very process still there?"""

from __future__ import annotations

import os
import subprocess
import sys

from megabatch.trainer.watch import processes


def test_a_process_is_here_until_it_has_ended_even_while_nobody_asks_for_its_exit_code() -> None:
    code = "from megabatch.trainer.watch.processes import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert processes.is_here(name)
    assert not processes.is_gone(name)
    processes.kill(name)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert processes.is_gone(name)
    child.communicate()
    assert child.returncode == -9
    assert processes.is_gone(name)
    processes.kill(name)  # its number may be another's by now: nothing happens


def test_a_later_process_of_the_same_number_is_another_one() -> None:
    machine, pid, began = processes.this_process().rsplit("/", 2)
    assert not processes.is_gone(f"{machine}/{pid}/{began}")
    assert processes.is_gone(f"{machine}/{pid}/{int(began) - 1}")


def test_what_is_on_another_machine_is_neither_here_nor_gone() -> None:
    elsewhere = "another boot/1/1"
    assert not processes.is_here(elsewhere)
    assert not processes.is_gone(elsewhere)
    processes.kill(elsewhere)
