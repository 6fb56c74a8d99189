"""The case study of overfitting: what it trains, what it refuses before, and what it makes of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.launcher.cli import app
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study import overfit, overfit_report
from megabatch.launcher.study.overfit import TECHNIQUES, Study
from megabatch.launcher.study.overfit_picture import picture
from support.runs import Workplace

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


@pytest.mark.processes
@pytest.mark.parametrize("labels", [["baseline"], pytest.param(["baseline", "fusion"], marks=pytest.mark.matrix)])
def test_a_study_trains_fuses_measures_and_goes_on_where_it_ended(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], labels: list[str]
) -> None:
    few = tuple(technique for technique in TECHNIQUES if technique.label in labels)
    folder = place / "studies" / "-".join(labels)
    for module in (overfit, overfit_report):
        monkeypatch.setattr(module, "TECHNIQUES", few)
    arguments = ["study", "overfit", *SMALL, "--seeds", "1", "--members", "2", "--folder", str(folder)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output + capfd.readouterr().err
    techniques = json.loads((folder / "overfit.json").read_text())["techniques"]
    assert [one["label"] for one in techniques] == labels
    parameters = [one["size"]["parameters"] for one in techniques]
    assert parameters == [parameters[0] * (1 + number) for number in range(len(labels))]  # the fusion has two networks
    assert (folder / "overfit" / "seed-1" / "result.json").exists() == ("fusion" in labels)
    assert {file.suffix for file in folder.glob("overfit.*")} == {".json", ".csv", ".svg", ".html"}
    kept = {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}
    again = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert again.exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")} == kept
    assert labels[-1] in again.output
