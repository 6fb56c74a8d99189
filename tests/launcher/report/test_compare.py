"""Comparing runs: what differs, which number is best, and what is said of folders that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.launcher.cli import app
from megabatch.launcher.report.compare import compare_page, differences_of, names_of, read_runs, results_table
from megabatch.launcher.report.run import Run
from support.report_runs import CIFAR10, bare_run, rich_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("compare")
    rich_run(folder / "a" / "x", 100)
    second = rich_run(
        folder / "b" / "x", 60, CIFAR10, 1, "optimizer.beta2=0.99", "cluster.environment={KEY_ONE: hideaway}"
    )
    result = json.loads(second.result.read_text())
    result["test"]["top1"] = 0.91
    second.result.write_text(json.dumps(result))
    return read_runs([str(folder / "a" / "x"), str(folder / "b" / "x")])


def test_only_keys_with_different_values_are_told_and_no_variable_of_the_environment(runs: list[Run]) -> None:
    assert differences_of(runs) == {"optimizer.beta2": [0.999, 0.99]}


def test_the_best_number_of_each_column_is_pointed_out(runs: list[Run]) -> None:
    table = results_table(runs)
    at = table.columns.index("Test top-1")
    assert [row[at] for row in table.rows] == ["87.34%", "91.00%"]
    assert {row for row, column in table.best if column == at} == {1}
    same = table.columns.index("Test top-5")
    assert not [1 for _, column in table.best if column == same]
    time = table.columns.index("Time")
    assert {row for row, column in table.best if column == time} == {1}


def test_runs_of_one_name_are_told_apart_by_the_folders_above_them(runs: list[Run]) -> None:
    assert names_of(runs) == ["a/x", "b/x"]


def test_the_page_has_a_curve_of_each_run_in_each_chart(runs: list[Run]) -> None:
    text = compare_page(runs)
    data = json.loads(text.partition('id="chart-data">')[2].partition("</script>")[0])
    assert [run["name"] for run in data["runs"]] == ["a/x", "b/x"]
    for chart in data["charts"]:
        assert {one["run"] for one in chart["series"]} == {0, 1}, chart["title"]
    assert "hideaway" not in text


def test_all_folders_that_are_no_runs_are_told_at_once(tmp_path: Path) -> None:
    rich_run(tmp_path / "run", 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as told:
        read_runs([str(tmp_path / name) for name in ("run", "empty", "nowhere")])
    assert [problem.where for problem in told.value.problems] == [str(tmp_path / "empty"), str(tmp_path / "nowhere")]


def test_one_run_twice_is_no_comparison(tmp_path: Path) -> None:
    bare_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="is one run: name two or more"):
        read_runs([str(tmp_path / "run"), str(tmp_path / "run" / "..") + "/run"])


def test_the_command_prints_a_table_and_writes_the_page(runs: list[Run], tmp_path: Path) -> None:
    folders = [str(run.run_dir.root) for run in runs]
    page = tmp_path / "new" / "compare.html"
    done = CliRunner().invoke(app, ["compare", *folders, "--output", str(page)], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    lines = {line[:20].strip(): line[20:].split() for line in done.output.splitlines()}
    assert lines["Test top-1"] == ["87.34%", "91.00%", "*"]
    assert lines["optimizer.beta2"] == ["0.999", "0.99"]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_command_prints_json(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compare", *(str(run.run_dir.root) for run in runs), "--json"])
    first, second = json.loads(done.output)
    assert (first["results"]["test_top1"], second["results"]["test_top1"]) == (0.8734, 0.91)
    assert second["differences"] == {"optimizer.beta2": 0.99}
    assert list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(
        app, ["compare", *(str(run.run_dir.root) for run in runs), "--json", "--output", "a.html"]
    )
    assert json.loads(done.stdout) == [first, second]
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_the_command_says_what_is_no_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(tmp_path), "nowhere"])
    assert done.exit_code == 2
    assert done.output.count("is no run folder: it has no job.yaml. `megabatch launch RECIPE` makes one") == 2
    assert "Traceback" not in done.output
