"""What follows a failure over ssh; tests/cluster/test_lost_hosts.py has it on real hosts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import take
from megabatch.launcher.hosts import restarts
from megabatch.launcher.hosts.attempt import Gathered, Work
from megabatch.launcher.hosts.check import Group
from megabatch.launcher.hosts.connection import Connection
from megabatch.launcher.hosts.restarts import Budget, run
from megabatch.launcher.hosts.watched import Outcome
from megabatch.launcher.supervise import Ending, ExitCode

FAILED = Outcome(Ending(ExitCode.FAILED, "rank 1 was killed"), {})
DONE = Outcome(Ending(ExitCode.DONE, ""), {})


class Course:
    """Stands for hosts and ranks: what each look at the hosts finds, and how each start ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self.run_dir = RunDir(folder)
        self.run_dir.job.write_text("the first launch")
        self.outcomes: list[Callable[[], Outcome]] = []
        self.found: list[tuple[str, ...] | ConfigError] = []
        self.started_on: list[tuple[str, ...]] = []
        self.said: list[str] = []
        monkeypatch.setattr(restarts, "gathered", self._gathered)
        monkeypatch.setattr(restarts, "train", self._train)
        monkeypatch.setattr(restarts, "_SECONDS_BETWEEN_LOOKS", 0.01)

    def run(self, *outcomes: Outcome | Callable[[], Outcome], **backend: float) -> Ending:
        """Carry the job out; every outcome is one start."""
        self.outcomes = [outcome if callable(outcome) else (lambda o=outcome: o) for outcome in outcomes]
        settings = Ssh.model_validate({"hosts": ("n1", "n2"), "max_restarts": 9, **backend})
        loaded = load("digits", "laptop")
        job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint="", version="")
        return run(Work(job, settings, self.run_dir, lambda *_: [], {}), self.said.append)

    @contextmanager
    def _gathered(self, work: Work) -> Iterator[Gathered]:
        found = self.found.pop(0) if self.found else ("n1", "n2")
        if isinstance(found, ConfigError):
            raise found
        connections = [cast(Connection, SimpleNamespace(host=host)) for host in found]
        yield Gathered(Group(connections, "", []), SimpleQueue())

    def _train(self, work: Work, hosts: Gathered, say: object) -> Outcome:
        self.started_on.append(tuple(connection.host for connection in hosts.group.connections))
        return self.outcomes.pop(0)()


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Course:
    return Course(monkeypatch, tmp_path)


def nobody(*_: object) -> ConfigError:
    return ConfigError([Problem("", "n1: ssh cannot get there")])


def test_a_job_begins_anew_until_it_is_done(course: Course) -> None:
    assert course.run(FAILED, FAILED, DONE) == DONE.ending
    assert len(course.started_on) == 3
    assert course.said[0].startswith("rank 1 was killed\nfailure 1 without a new checkpoint")


@pytest.mark.parametrize("code", [ExitCode.DONE, ExitCode.MISTAKE, ExitCode.STOPPED])
def test_a_mistake_or_a_stop_is_not_repeated(course: Course, code: ExitCode) -> None:
    ending = Ending(code, "as it is")
    assert course.run(Outcome(ending, {})) == ending
    assert course.said == []


def test_the_last_failure_is_told_when_the_budget_is_used_up(course: Course) -> None:
    told = course.run(*[FAILED] * 3, max_restarts=2)
    assert told.code == ExitCode.FAILED
    assert told.message.startswith("rank 1 was killed\nnot started anew: failure 3 without a new checkpoint")
    assert course.run(FAILED, max_restarts=0) == FAILED.ending


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 4))
def test_failures_count_from_the_newest_checkpoint_on(advances: list[int], most: int) -> None:
    budget, step, in_a_row = Budget(most, 0), 0, 0
    for advance in advances:
        step += advance
        in_a_row = 1 if advance else in_a_row + 1
        assert budget.allows(step) == (in_a_row <= most)


def test_hosts_that_cannot_be_asked_are_waited_for_and_others_are_not(course: Course) -> None:
    soon, never = time.monotonic() + 0.3, time.monotonic() + 9e9
    course.found = [("n1", "n2"), *[("n2", "n3")] * 1000]
    lost = Outcome(FAILED.ending, {"n1": soon, "n2": never})  # n2 says by itself that no rank is left there
    assert course.run(lost, DONE).code == ExitCode.DONE
    assert time.monotonic() >= soon
    assert course.started_on == [("n1", "n2"), ("n2", "n3")]
    assert [text[:18] for text in course.said[1:]] == ["waiting for 0 s: b"]


def test_too_few_hosts_are_looked_at_again_and_told_in_the_end(course: Course) -> None:
    course.found = [("n1", "n2"), nobody(), nobody(), ("n1", "n2")]
    assert course.run(FAILED, DONE).code == ExitCode.DONE
    course.found = [("n1", "n2"), *[nobody() for _ in range(2)]]
    ending = course.run(FAILED, wait_seconds=0)
    assert ending == Ending(ExitCode.FAILED, "not started anew after a failure:\nn1: ssh cannot get there")


def test_at_the_first_start_too_few_hosts_are_a_mistake(course: Course) -> None:
    course.found = [nobody()]
    with pytest.raises(ConfigError):
        course.run()


def test_nothing_begins_while_a_rank_has_the_run_folder(course: Course) -> None:
    lock = take(course.run_dir.lock)
    threading.Timer(0.5, lock.close).start()
    began = time.monotonic()
    assert course.run(FAILED, DONE).code == ExitCode.DONE
    assert time.monotonic() - began > 0.4
    lock = take(course.run_dir.lock)
    assert "is in use by process" in course.run(FAILED, wait_seconds=0).message
    lock.close()


def test_a_run_that_was_launched_again_elsewhere_is_left_alone(course: Course) -> None:
    def relaunched() -> Outcome:
        course.run_dir.job.unlink()
        course.run_dir.job.write_text("another launch")
        os.utime(course.run_dir.job, (1, 1))
        return FAILED

    assert "launched again from somewhere else" in course.run(relaunched).message


def test_a_request_to_cancel_ends_the_wait_and_is_gone_then(course: Course) -> None:
    course.run_dir.cancel.touch()  # of another time
    course.found = [("n1", "n2"), *[nobody() for _ in range(1000)]]
    threading.Timer(0.3, course.run_dir.cancel.touch).start()
    assert course.run(FAILED).code == ExitCode.STOPPED
    assert not course.run_dir.cancel.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(course: Course, number: signal.Signals) -> None:
    course.found = [("n1", "n2"), *[nobody() for _ in range(1000)]]
    threading.Timer(0.3, os.kill, [os.getpid(), number]).start()
    assert course.run(FAILED).code == ExitCode.STOPPED
