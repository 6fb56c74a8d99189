"""`megabatch report`, and the report that keeps itself up to date beside a run and can never disturb it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs.run_dir import RunDir
from megabatch.launcher import report_commands
from megabatch.launcher.cli import app
from megabatch.launcher.report import fresh
from megabatch.launcher.status import Status
from support.report_runs import bare_run, rich_run


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return rich_run(tmp_path_factory.mktemp("report") / "rich", 40)


def test_the_command_writes_into_the_run_folder_or_where_it_is_told(rich: RunDir, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(rich.root)])
    assert (done.exit_code, done.output) == (0, f"report: {rich.report}\n")
    page = tmp_path / "new" / "page.html"
    done = CliRunner().invoke(app, ["report", str(rich.root), "--output", str(page), "--price-per-device-hour", "100"])
    assert done.exit_code == 0
    assert "at 100 a device-hour" in page.read_text()
    assert "device-hour</small>" not in rich.report.read_text()


def test_latest_is_the_newest_run(rich: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rich_run(tmp_path / "runs" / "newest", 20)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["report"]).output == "report: runs/newest/report.html\n"


def test_the_command_names_the_page_that_cannot_be_written(rich: RunDir, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["report", str(rich.root), "--output", str(tmp_path / "file" / "page.html")])
    assert done.exit_code == 2
    assert f"error: {tmp_path}/file/page.html: " in done.output


def test_a_run_with_stages_has_a_page_for_each(tmp_path: Path) -> None:
    run_dir = bare_run(tmp_path / "whole")
    stage = rich_run(run_dir.stage(1).root, 20)
    fresh.write_report(run_dir)
    assert stage.report.exists()
    assert "Each stage has a page of its own" in run_dir.report.read_text()
    assert 'class="state finished"' in run_dir.report.read_text()


def test_follow_writes_until_the_run_has_ended(rich: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["running", "running", "finished", "finished"]
    written: list[float] = []
    monkeypatch.setattr(report_commands, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr("megabatch.launcher.status.look", lambda _: _status(states.pop(0)))
    monkeypatch.setattr(fresh, "write_report", lambda run_dir, *_: written.append(time.time()) or run_dir.report)
    done = CliRunner().invoke(app, ["report", str(rich.root), "--follow"])
    assert done.output.splitlines()[-1] == "rich: finished"
    assert len(written) == 4  # at once, and at each look


def _status(state: str) -> Status:
    return Status("", state, "", None, None, None, None, None, None, None, 0, 0, None, ())


def test_it_is_written_while_the_ranks_write_and_once_more_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "SECONDS", 0.02)
    run_dir = rich_run(tmp_path / "run", 20)
    with fresh.kept_fresh(run_dir):
        time.sleep(0.1)
        assert not run_dir.report.exists()  # nothing was trained yet
        os.utime(run_dir.metrics)
        _until(run_dir.report.exists)
        run_dir.report.write_text("old")
        os.utime(run_dir.metrics)
    assert run_dir.report.read_text().startswith("<!DOCTYPE html>")


def test_what_trains_nothing_gets_no_report(tmp_path: Path) -> None:
    run_dir = rich_run(tmp_path / "run", 20)
    with fresh.kept_fresh(run_dir):
        pass
    assert not run_dir.report.exists()


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), MemoryError(), OSError(28, "No space left")])
def test_no_error_in_it_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tried = threading.Event()

    def fails(*_: object) -> Path:
        tried.set()
        raise error

    monkeypatch.setattr(fresh, "SECONDS", 0.01)
    monkeypatch.setattr(fresh, "write_report", fails)
    run_dir = rich_run(tmp_path / "run", 20)
    with fresh.kept_fresh(run_dir):
        os.utime(run_dir.metrics)
        assert tried.wait(10)


def test_nobody_waits_longer_than_they_said_for_a_disk_that_hangs(
    rich: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, written = threading.Event(), threading.Event()

    def hangs(*_: object) -> None:
        answers.wait(30)
        written.set()

    monkeypatch.setattr(fresh, "write_report", hangs)
    fresh.write_within(rich, 0.05)
    assert not written.is_set()
    answers.set()
    assert written.wait(10)


def test_its_thread_gives_way_to_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    priorities: list[int] = []
    tried = threading.Event()

    def note(_: RunDir) -> bool:
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        tried.set()
        return True

    monkeypatch.setattr(fresh, "SECONDS", 0.01)
    monkeypatch.setattr(fresh, "write_quietly", note)
    run_dir = rich_run(tmp_path / "run", 20)
    with fresh.kept_fresh(run_dir):
        os.utime(run_dir.metrics)
        assert tried.wait(10)
    assert priorities[0] == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19


def _until(happened: object) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if happened():  # type: ignore[operator]  # a bound method
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")
