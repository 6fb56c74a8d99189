"""What each stage is made of, what is refused before the first one begins, and what is told of them; without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.launcher import continual
from megabatch.launcher.known_classes import with_outputs
from megabatch.launcher.prepare import check, job_of
from megabatch.launcher.pretrained import with_ewc, with_pretrained
from megabatch.launcher.save_job import find_folder, find_run, new_run_dir, write_job
from megabatch.launcher.stages import previews, stage_data, stage_recipe
from megabatch.launcher.study.continual import Known, lines, page, rows
from megabatch.launcher.supervise import Ending, ExitCode
from megabatch.launcher.teachers import with_teachers
from support.runs import Workplace

STAGES = "continual.stages=[{classes: [class2]}, {classes: [class0]}, {classes: [class1], epochs: 5, changes: {optimizer.momentum: 0.5}}]"  # fmt: skip
SPLITS = ("data.validation_split=validation", "data.test_split=test")


@pytest.fixture
def here(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace.folder)
    return workplace.folder


def job(*overrides: str) -> Job:
    return job_of(load("recipe.yaml", "laptop", ["cluster.processes_per_node=1", *SPLITS, *overrides]))


def recipes(asked: Job, before: RunDir | None = None) -> list[Recipe]:
    data = stage_data(asked)
    return [stage_recipe(asked, data, number, before if number > 1 else None) for number in (1, 2, 3)]


def test_a_stage_has_the_data_of_those_before_to_evaluate_and_its_own_to_train_on(here: Path) -> None:
    found = recipes(job(STAGES))
    assert [recipe.name for recipe in found] == ["tiny-stage-1", "tiny-stage-2", "tiny-stage-3"]
    assert [(recipe.seed, recipe.epochs) for recipe in found] == [(0, 2), (1, 2), (2, 5)]
    assert [recipe.data.classes for recipe in found] == [
        ("class2",), ("class2", "class0"), ("class2", "class0", "class1"),
    ]  # fmt: skip
    sources = found[2].data.sources
    assert [(source.classes, source.train_samples, source.weight) for source in sources] == [
        (("class2",), 0, None), (("class0",), 0, None), (("class1",), None, None),
    ]  # fmt: skip
    assert [getattr(recipe.optimizer, "momentum", None) for recipe in found] == [0.9, 0.9, 0.5]
    assert all(recipe.continual is None and recipe.model.pretrained is None for recipe in found)


def test_the_buffer_has_as_many_of_each_earlier_class_and_its_share_is_exact(here: Path) -> None:
    stages = "continual.stages=[{classes: [class2, class0]}, {classes: [class1]}]"
    replay = "continual.replay={samples: 7, share: 0.3}"
    asked = job(stages, replay)
    old, new = stage_recipe(asked, stage_data(asked), 2).data.sources
    assert (old.train_samples, old.weight, new.weight) == (6, 3, 7)
    third = recipes(job(STAGES, replay))[2].data.sources
    assert [(source.train_samples, source.weight) for source in third] == [(3, 3), (3, 3), (None, 14)]


def test_a_stage_goes_on_from_the_run_before_it(here: Path) -> None:
    asked = job(STAGES, "continual.ewc.strength=5", "continual.lwf={share: 0.3}", "model.pretrained=begin.pt")
    found = recipes(asked, RunDir(here / "run" / "stages" / "1"))
    assert (found[0].model.pretrained, found[0].distillation) != (None, None)
    pretrained, ewc, lwf = found[1].model.pretrained, found[1].regularization.ewc, found[1].distillation
    assert pretrained is not None
    assert ewc is not None
    assert lwf is not None
    assert (pretrained.source, pretrained.outputs) == ("run/stages/1", "by_class")
    assert (ewc.source, ewc.strength) == ("run/stages/1/ewc.safetensors", 5)
    assert (lwf.teachers[0].source, lwf.outputs, lwf.share) == ("run/stages/1", "by_class", 0.3)


def test_the_own_loss_is_over_new_classes_where_all_samples_are_of_those(here: Path) -> None:
    before = RunDir(here / "run" / "stages" / "1")
    for replay, over in (("null", "other"), ("{samples: 6}", "all")):
        lwf = recipes(job(STAGES, "continual.lwf={}", f"continual.replay={replay}"), before)[2].distillation
        assert lwf is not None
        assert lwf.loss_over == over
    data = stage_data(job(STAGES))
    twice = [data[0], data[1], data[0]]
    lwf = stage_recipe(job(STAGES, "continual.lwf={}"), twice, 3, before).distillation
    assert lwf is not None
    assert lwf.loss_over == "all"


def test_problems_of_all_stages_are_told_at_once_and_each_once(here: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        previews(job(STAGES, "batch.micro_batch=30", "continual.replay.samples=60"))
    told = [str(problem) for problem in refused.value.problems]
    assert len([line for line in told if "batch.micro_batch=30 > batch.global_batch=20" in line]) == 1
    assert any(line.startswith("stage 2: data: train_samples: 60 is 60 of each of 1 classes") for line in told)


def test_a_stage_without_samples_to_measure_on_is_told(here: Path) -> None:
    reader = arrange(job()).reader("test")
    samples = [reader.read(number) for number in range(reader.samples)]
    excluded = {"test": [sample.key for sample in samples if sample.label == 0]}
    (here / "mask.json").write_text(json.dumps({"format": "megabatch-mask-1", "excluded": excluded}))
    with pytest.raises(ConfigError) as refused:
        previews(job(STAGES, "data.mask=mask.json"))
    told = "continual.stages.1: data has no samples of these classes in split 'test', on which forgetting is measured"
    assert told in str(refused.value)
    assert len(previews(job(STAGES))) == 3


def run_of(folder: Path, names: tuple[str, ...]) -> None:
    """A run folder as far as the launcher looks at it."""
    run_dir = RunDir(folder)
    run_dir.checkpoint(10).mkdir(parents=True)
    (run_dir.checkpoint(10) / "manifest.json").write_text(folder.name)
    (run_dir.checkpoint(10) / "state.json").write_text(json.dumps({"training": {"best_step": None}}))
    run_dir.outputs.write_text(json.dumps({"number": len(names), "names": names}))
    write_job(job(), run_dir.job)


CLASSES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("names", "asked", "found"),
    [(("c", "a"), "by_class", (2, 0)), (CLASSES, "by_class", (0, 1, 2, 3)), (("x", "y"), "[3, 1]", (3, 1))],
)
def test_outputs_are_found_by_the_names_of_classes(
    here: Path, tmp_path: Path, names: tuple[str, ...], asked: str, found: tuple[int, ...]
) -> None:
    run_of(tmp_path / "run", names)
    source = tmp_path / "run/checkpoints/step-00000010"
    of_run = job(f"model.pretrained={{source: {source}, outputs: {asked}}}")
    settled = with_outputs(of_run, CLASSES)
    assert settled.recipe.model.pretrained is not None
    assert settled.recipe.model.pretrained.outputs == found
    assert with_outputs(settled, CLASSES) == settled
    assert (settled.fingerprint() != of_run.fingerprint()) == (asked == "by_class")


@pytest.mark.parametrize(
    ("names", "asked", "told"),
    [
        (("a", "e"), "by_class", "was trained for class 'e' too, which these data do not have"),
        (("b", "a", "c", "d"), "by_class", "has the same classes in another order"),
        (("a",), "[4]", "output 4 is beyond the 4 classes of these data"),
        (("a",), "[1, 1]", "no number twice"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    here: Path, tmp_path: Path, names: tuple[str, ...], asked: str, told: str
) -> None:
    run_of(tmp_path / "run", names)
    with pytest.raises(ConfigError) as refused:
        with_outputs(
            job(f"model.pretrained={{source: {tmp_path}/run/checkpoints/step-00000010, outputs: {asked}}}"), CLASSES
        )
    assert told in str(refused.value)


def test_a_run_with_stages_is_no_source_of_weights_but_each_stage_is(here: Path, tmp_path: Path) -> None:
    run_of(tmp_path / "run" / "stages" / "2", ("a",))
    write_job(job(STAGES), tmp_path / "run" / "job.yaml")
    with pytest.raises(ConfigError, match=r"run has stages, .*: name one, such as .*/run/stages/2"):
        with_pretrained(job(f"model.pretrained={tmp_path}/run"))
    settled = with_pretrained(job(f"model.pretrained={tmp_path}/run/stages/2")).recipe.model.pretrained
    assert settled is not None
    assert settled.source.endswith("stages/2/checkpoints/step-00000010")


def test_a_file_does_not_name_its_classes(here: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(ConfigError, match="a file does not name its classes: write a list"):
        with_outputs(job(f"model.pretrained={{source: {tmp_path}/w.pt, outputs: by_class}}"), CLASSES)
    with pytest.raises(ConfigError, match="outputs: timm's weights are for classes of their own"):
        job("model.pretrained={source: timm, outputs: by_class}")
    with pytest.raises(ConfigError, match=r"distillation.outputs: .*w.pt: a file does not name its classes"):
        with_teachers(job(f"distillation={{teachers: [{tmp_path}/w.pt], outputs: by_class}}"), CLASSES)


def test_teachers_that_know_some_classes_are_compared_on_those(here: Path, tmp_path: Path) -> None:
    for name, names in (("one", ("c", "a")), ("other", ("a", "c"))):
        run_of(tmp_path / name, names)
    asked = job(f"distillation={{teachers: [{tmp_path}/one], outputs: by_class}}")
    settled = with_teachers(asked, CLASSES)
    assert settled.recipe.distillation is not None
    assert settled.recipe.distillation.outputs == (2, 0)
    assert with_teachers(settled, CLASSES) == settled
    with pytest.raises(ConfigError, match=r"its output 0 is a, and in these data class 0 is c .*outputs=by_class"):
        with_teachers(job(f"distillation={{teachers: [{tmp_path}/one, {tmp_path}/other], outputs: by_class}}"), CLASSES)
    with pytest.raises(ConfigError, match="was trained for class 'c' too"):
        with_teachers(asked, CLASSES[:2])
    with pytest.raises(ConfigError, match="9 is beyond the 4 classes"):
        with_teachers(job(f"distillation={{teachers: [{tmp_path}/one], outputs: [0, 9]}}"), CLASSES)


def test_what_mattered_is_a_file_whose_bytes_decide_the_training(here: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"a")
    (tmp_path / "b.safetensors").write_bytes(b"b")
    (tmp_path / "c.safetensors").write_bytes(b"a")
    prints = [
        with_ewc(job(f"regularization.ewc={{source: {tmp_path}/{n}.safetensors, strength: 1}}")).fingerprint()
        for n in "abc"
    ]
    assert prints[0] == prints[2] != prints[1]
    with pytest.raises(ConfigError, match=r"regularization.ewc: .* is a folder: name the file"):
        with_ewc(job(f"regularization.ewc={{source: {tmp_path}, strength: 1}}"))
    with pytest.raises(ConfigError, match=r"regularization.ewc: .*gone.safetensors: no such file"):
        with_ewc(job("regularization.ewc={source: gone.safetensors, strength: 1}"))


def test_a_recipe_with_stages_is_no_job_by_itself(here: Path) -> None:
    with pytest.raises(ConfigError, match="continual: a recipe with stages is started by `megabatch launch`"):
        check(job(STAGES))


def ended(stage: RunDir, asked: Job) -> None:
    """A stage that has been trained, as far as the launcher looks at it."""
    if not stage.job.exists():
        write_job(asked, stage.job)
    stage.result.write_text(json.dumps({"outcome": "finished"}))
    stage.outputs.write_text(json.dumps({"names": ["a"]}))


def test_a_launch_that_was_killed_goes_on_with_what_is_not_done(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks are left out: what is started, and in which order, is the point."""
    begun: list[str] = []
    kill_at = {"train 2", "measure 2", "resume 3"}

    def happen(what: str) -> None:
        begun.append(what)
        if what in kill_at:
            kill_at.remove(what)
            raise KeyboardInterrupt

    def start_job(prepared: object, chosen: Path, whole: RunDir) -> int:
        assert not chosen.exists()
        chosen.mkdir(parents=True)
        (chosen / ".job.yaml.7").touch()  # killed right there, it is begun anew
        happen(f"train {chosen.name}")
        write_job(prepared.job, RunDir(chosen).job)  # type: ignore[attr-defined]
        if chosen.name == "3":
            return ExitCode.STOPPED
        ended(RunDir(chosen), prepared.job)  # type: ignore[attr-defined]
        return ExitCode.DONE

    def run_job(asked: Job, stage: RunDir, whole: RunDir) -> int:
        happen(f"resume {stage.root.name}")
        ended(stage, asked)
        return ExitCode.DONE

    def start(asked: Job, stage: RunDir, say: object, arguments: list[str]) -> Ending:
        happen(f"measure {stage.root.name}")
        number = int(stage.root.name)
        accuracy = {"split": "test", "samples": [5] * number, "accuracy": [0.5] * number, "before": 0.1, "random": 0.2}
        stage.study_result.write_text(json.dumps(accuracy))
        return Ending(ExitCode.DONE, "")

    monkeypatch.setattr(continual, "start_job", start_job)
    monkeypatch.setattr(continual, "run_job", run_job)
    monkeypatch.setattr(continual.launch, "start", start)
    monkeypatch.setattr(continual, "stage_recipe", lambda job, data, number, before: stage_recipe(job, data, number))
    monkeypatch.setattr(continual, "room_to_go_on", lambda stage: [])
    chosen = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        continual.start(job(STAGES), chosen)
    run_dir = find_folder(str(chosen), None)
    assert find_run(str(chosen), None) == run_dir.stage(1)
    codes = []
    for _ in range(4):
        try:
            codes.append(continual.resume(run_dir, None, [], dry=False))
        except KeyboardInterrupt:
            codes.append(-1)
    assert codes == [-1, ExitCode.STOPPED, -1, ExitCode.DONE]
    assert begun == [
        "train 1", "measure 1", "train 2", "train 2", "measure 2", "measure 2", "train 3", "resume 3", "resume 3",
        "measure 3",
    ]  # fmt: skip
    assert json.loads(run_dir.continual.read_text())["all"] == [0.5] * 3
    assert continual.resume(run_dir, None, [], dry=False) == ExitCode.DONE
    assert len(begun) == 10
    with pytest.raises(ConfigError, match="a run keeps its recipe"):
        continual.resume(run_dir, None, ["epochs=3"], dry=False)


def test_two_launches_do_not_work_in_one_folder(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job(STAGES)
    run_dir = new_run_dir(asked, tmp_path / "run")
    with continual.closing(continual.take(run_dir.lock)), pytest.raises(ConfigError, match="is in use by process"):
        continual._train_stages(asked, run_dir)


def known(*accuracy: tuple[float, ...], samples: tuple[int, ...] = ()) -> Known:
    count = len(accuracy)
    return Known(
        "test", tuple(f"data: {n}" for n in range(count)), samples or (10,) * count, accuracy,
        tuple(0.1 * n for n in range(count)), (0.05,) * count,
    )  # fmt: skip


def test_the_measures_are_those_of_the_papers_worked_out_by_hand() -> None:
    found = known((0.9,), (0.6, 0.8), (0.7, 0.5, 0.9), samples=(10, 30, 60))
    assert found.measures() == pytest.approx(
        {
            "average_accuracy": (0.7 + 0.5 + 0.9) / 3,
            "forgetting": ((0.9 - 0.7) + (0.8 - 0.5)) / 2,
            "backward_transfer": ((0.7 - 0.9) + (0.5 - 0.8)) / 2,
            "forward_transfer": ((0.1 - 0.05) + (0.2 - 0.05)) / 2,
        }
    )
    assert (found.old(0), found.old(1)) == (None, 0.6)
    assert found.old(2) == pytest.approx((0.7 * 10 + 0.5 * 30) / 40)
    assert found.all(2) == pytest.approx((0.7 * 10 + 0.5 * 30 + 0.9 * 60) / 100)
    # forgetting is what was known at best, backward transfer what was known at first
    better = known((0.5,), (0.9, 0.8), (0.7, 0.8, 0.9)).measures()
    assert (better["forgetting"], better["backward_transfer"]) == pytest.approx((0.1, 0.1))


def test_one_stage_has_nothing_to_forget_yet() -> None:
    found = known((0.9,))
    assert lines(found) == ["average accuracy: 90.0%"]
    assert rows(found) == [["1", "90.0%", "", "90.0%", "90.0%"]]


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_forgetting_is_at_least_what_backward_transfer_lost(values: list[float]) -> None:
    measures = known((values[0],), tuple(values[1:3]), tuple(values[3:])).measures()
    assert measures["forgetting"] is not None
    assert measures["backward_transfer"] is not None
    assert measures["forgetting"] >= -measures["backward_transfer"] - 1e-12


def test_the_page_shows_what_is_known_and_runs_nothing() -> None:
    shown = page(known((0.9,), (0.6, 0.8)), "<run>")
    assert "&lt;run&gt;" in shown
    assert "<script" not in shown
    assert rows(known((0.9,), (0.6, 0.8)))[0] == ["1", "90.0%", "(10.0%)", "", "90.0%", "90.0%"]
    assert shown.count("<polyline") == 2
    assert "after stage 2" in shown
