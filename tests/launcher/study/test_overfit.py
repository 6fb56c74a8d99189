"""The case study of overfitting: what it trains, what it refuses before, and what it makes of the results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study import ensemble, overfit, overfit_report
from megabatch.launcher.study.overfit import TECHNIQUES, Study
from megabatch.launcher.study.overfit_picture import picture
from megabatch.launcher.supervise import Ending, ExitCode
from support.runs import Workplace, environment

SMALL = (
    "data.path=data", "data.image_size=8", "data.hash_split=null", "epochs=1", "model.options={widths: [4, 8]}",
    "batch={global_batch: 20, micro_batch: 4}",
)  # fmt: skip
ONE = ("cluster.nodes=1", "cluster.processes_per_node=1", "cluster.device=cpu")
SIZE = {"parameters": 2000, "nonzero": 200, "milliseconds_1": 0.25, "milliseconds_32": 4.0}


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace.folder)
    return workplace.folder


def planned(folder: Path, seeds: int = 2, members: int = 2) -> Study:
    # Without the schedules of the recipes, which are made for forty epochs.
    return overfit.plan("laptop", [*SMALL, "pruning=null", "schedule=constant"], seeds, members, folder)


@given(seeds=st.integers(1, 6), members=st.integers(2, 6))
def test_no_network_is_in_two_fusions_and_all_are_trained(seeds: int, members: int) -> None:
    study = Study(Path(), {}, seeds, members)
    groups = [list(study.members_of(number)) for number in range(seeds)]
    assert sorted(n for group in groups for n in group) == list(range(seeds * members))
    assert [group[0] for group in groups] == list(range(seeds))


def test_every_technique_is_a_recipe_and_each_has_as_many_runs_as_it_needs(place: Path) -> None:
    study = planned(place / "counted", seeds=2, members=3)
    assert set(study.jobs) == {technique.recipe for technique in TECHNIQUES}
    runs = list(study.runs())
    assert len({study.run_dir(*run).root for run in runs}) == len(runs) == 7 * 2 + 3 * 6
    assert study.job("overfit", 4).recipe.seed == study.jobs["overfit"].recipe.seed + 4


def test_what_cannot_work_is_told_before_anything_is_written(place: Path) -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["study", "overfit", *SMALL, *arguments], env={"COLUMNS": "200"})
        assert (result.exit_code, (place / "studies").exists()) == (2, False)
        return result.stderr

    assert "schedule.warmup" in told()  # two of one epoch are warmup, as the recipe of AdamW has it
    assert "overfit-pruning: pruning.schedule" in told("schedule=constant")
    rest = ("schedule=constant", "pruning=null")
    assert "error: digits is no override: write key=value" in told("digits")
    assert "data.test_split: the study compares by the test split" in told(*rest, "data.test_split=null")
    assert "`megabatch study overfit` waits for its runs" in told(*rest, "--cluster", "slurm-example", *ONE)
    assert "recipe overfit-early-stopping: " in told(*rest, "data.validation_split=null")


def test_runs_of_another_recipe_in_the_folder_are_not_compared(place: Path) -> None:
    folder = place / "changed"
    study = planned(folder)
    run_dir = study.run_dir("overfit", 0)
    run_dir.root.mkdir(parents=True)
    write_job(study.job("overfit", 0), run_dir.job)
    planned(folder)
    with pytest.raises(ConfigError, match=r"overfit, seed 0 was begun with epochs 1, which is 2 now"):
        overfit.plan("laptop", [*SMALL, "pruning=null", "schedule=constant", "epochs=2"], 2, 2, folder)


def results(study: Study) -> None:
    """Write what the ranks would have left: every technique one point better than the one before it."""
    for number, technique in enumerate(TECHNIQUES):
        for seed in range(study.seeds):
            folder = (study.fused_dir if technique.fused else study.run_dir)(technique.recipe, seed)
            folder.root.mkdir(parents=True, exist_ok=True)
            accuracy = {"top1": 0.4 + number / 100 + seed / 1000}
            folder.result.write_text(json.dumps({"outcome": "finished", "test": accuracy}))
            overfit.train_result(study.jobs[technique.recipe], folder).write_text(json.dumps({"top1": 1.0}))


def test_the_results_are_compared_seed_by_seed_and_written(place: Path) -> None:
    study = planned(place / "reported", seeds=3)
    results(study)
    rows = overfit_report.collect(study, [SIZE] * len(TECHNIQUES))
    assert [row.label for row in rows] == [technique.label for technique in TECHNIQUES]
    assert rows[0].to_baseline is None
    change = rows[2].to_baseline
    assert change is not None
    assert (change.spread.mean, change.verdict) == (pytest.approx(0.02), "helps")
    assert rows[2].gap == pytest.approx((0.58, 0.579, 0.578))
    assert overfit_report.cells(rows[2])[:6] == [
        "L1 penalty",
        "100.00 ± 0.00",
        "42.10 ± 0.10",
        "57.90",
        "+2.00 ± 0.00",
        "helps",
    ]
    files = {file.suffix: file.read_text() for file in overfit_report.write(study, rows)}
    values: dict[str, Any] = json.loads(files[".json"])
    assert values["techniques"][0]["test"] == pytest.approx([0.4, 0.401, 0.402])
    assert files[".csv"].count("\n") == len(TECHNIQUES) * 3 + 1
    assert files[".svg"].strip() in files[".html"]
    assert ElementTree.fromstring(files[".svg"]).tag.endswith("svg")
    assert "://" not in files[".html"].replace("http://www.w3.org/2000/svg", "")


def test_the_picture_has_a_disc_a_ring_and_all_seeds_of_each_row_within_its_frame() -> None:
    rows = [("a < b", [1.0, 0.98], [0.5, 0.52]), ("c", [0.7, 0.7], [0.1, 0.12])]
    drawn = ElementTree.fromstring(picture(rows))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    kinds = [one.get("class") for one in circles]
    assert [kinds.count(kind) for kind in ("disc", "ring", "seed", "seed train")] == [2, 2, 4, 4]
    places = [float(one.get("cx", "nan")) for one in circles]
    assert min(places) >= 250
    assert max(places) <= 690
    words = [one.text for one in drawn.iter() if one.tag.endswith("text")]
    assert {"a < b", "51.0", "11.0"} <= set(words)


def test_what_is_done_is_kept_and_the_command_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ranks that only write down what was asked of them."""
    asked: list[str] = []

    def done(run_dir: RunDir) -> None:
        asked.append(run_dir.root.relative_to(place / "studies").as_posix())
        run_dir.root.mkdir(parents=True, exist_ok=True)
        run_dir.result.write_text(json.dumps({"outcome": "finished", "test": {"top1": 0.5}}))

    def train(job: Job, run_dir: RunDir) -> Ending:
        if len(asked) == 5:
            return Ending(ExitCode.STOPPED, "")
        done(run_dir)
        write_job(job, run_dir.job)
        return Ending(ExitCode.DONE, "")

    def start(job: Job, run_dir: RunDir, say: object, arguments: Sequence[str]) -> Ending:
        assert arguments[:2] == ["--evaluate", "train"]
        overfit.train_result(job, run_dir).write_text(json.dumps({"top1": 1.0}))
        return Ending(ExitCode.DONE, "")

    def combine(members: Sequence[str], output: Path, settings: ensemble.Settings) -> None:
        done(RunDir(output))
        write_job(overfit.saved_job(RunDir(Path(members[0]))), RunDir(output).job)
        assert len(members) == 2

    monkeypatch.setattr(overfit, "train", train)
    monkeypatch.setattr(overfit.launch, "start", start)
    monkeypatch.setattr(ensemble, "combine", combine)
    monkeypatch.setattr(overfit, "inspect", lambda study: None)
    monkeypatch.setattr(overfit, "sizes", lambda study: [SIZE] * len(TECHNIQUES))
    arguments = [
        "study", "overfit", *SMALL, "schedule=constant", "pruning=null", "--seeds", "1", "--members", "2",
        "--folder", "studies/kept",
    ]  # fmt: skip
    first = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert (first.exit_code, len(asked)) == (3, 5), first.output
    assert "stopped. The same command goes on" in first.output
    asked.append("not five any more")
    second = CliRunner().invoke(app, arguments, env={"COLUMNS": "60"})
    assert second.exit_code == 0, second.output
    runs = [name for name in asked if "seed" in name or "fusion" in name]
    assert len(runs) == len(set(runs)) == 7 + 3 * 2 + 3
    assert "kept/overfit-everything/fusion-0" in runs
    assert all(technique.label in second.output for technique in TECHNIQUES)


_SCRIPT = """
import sys
from megabatch.launcher.study import overfit, overfit_report
few = tuple(technique for technique in overfit.TECHNIQUES if technique.label in ("baseline", "fusion"))
overfit.TECHNIQUES = overfit_report.TECHNIQUES = few
from megabatch.launcher.cli import main
main()
"""


@pytest.mark.processes
@pytest.mark.matrix
def test_a_study_trains_fuses_and_measures(workplace: Workplace) -> None:
    command = [
        sys.executable, "-c", _SCRIPT, "study", "overfit", *SMALL, "--seeds", "1", "--members", "2",
        "--folder", "studies/real",
    ]  # fmt: skip
    subprocess.run(command, cwd=workplace.folder, env=environment(), check=True)
    folder = workplace.folder / "studies" / "real"
    techniques = json.loads((folder / "overfit.json").read_text())["techniques"]
    assert [one["label"] for one in techniques] == ["baseline", "fusion"]
    assert techniques[1]["size"]["parameters"] == 2 * techniques[0]["size"]["parameters"]
    assert {file.suffix for file in folder.glob("overfit.*")} == {".json", ".csv", ".svg", ".html"}
