"""What an ablation does around its runs: folders in use, and what changed since."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.configs.run_lock import take
from megabatch.launcher.study.runs import _changed, _wait_until_free, held


def job(*overrides: str) -> Job:
    loaded = load("digits", "laptop", overrides)
    return Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint="", version="1")


def test_one_folder_is_for_one_ablation_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "a"), pytest.raises(ConfigError, match="is in use by process"), held(tmp_path / "a"):
        pass
    with held(tmp_path / "a"):
        pass


def test_ranks_that_outlived_their_launcher_are_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path)
    lock = take(run_dir.lock)
    waiting = threading.Thread(target=_wait_until_free, args=(run_dir,))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    lock.close()
    waiting.join(timeout=300)
    assert not waiting.is_alive()
    assert "waiting for its end" in capsys.readouterr().out


def test_what_changed_is_told_by_key() -> None:
    assert _changed(job(), job("epochs=7", "name=other", "model.options.widths=[8]")) == (
        "epochs 30, which is 7 now; model.options.widths [32, 64], which is [8] now"
    )
    assert _changed(job(), job()) == "other data"
