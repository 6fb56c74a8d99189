"""Which networks become an ensemble, which are refused before anything starts, and what is told; all of it without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabatch.configs.ensemble import read_options, with_weights
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.ensemble_command import lines
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.ensemble import Settings, _job_of, combine
from megabatch.launcher.study.fuse import fusion_recipe
from megabatch.launcher.study.members import members_of, require_together

CLASSES = ("cat", "dog", "eel")
NUMBERS = ("data.target={name: numbers, keys: [age]}", "loss=huber", "regularization.label_smoothing=0")
SCALED = "data.normalize={name: fixed, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"


def job_of(folder: Path, *overrides: str) -> Job:
    loaded = load("digits", "laptop", overrides)
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="d", version="1"
    )


def run_of(folder: Path, *overrides: str, names: tuple[str, ...] = CLASSES, steps: tuple[int, ...] = (10, 20)) -> str:
    """A run folder as far as the launcher looks at it; its best checkpoint is the first one."""
    run_dir = RunDir(folder)
    for step in steps:
        run_dir.checkpoint(step).mkdir(parents=True)
        (run_dir.checkpoint(step) / "manifest.json").write_text(f"{folder.name} {step}")
        (run_dir.checkpoint(step) / "state.json").write_text(json.dumps({"training": {"best_step": steps[0]}}))
    run_dir.outputs.write_text(json.dumps({"number": len(names), "names": names}))
    write_job(job_of(folder.parent, *overrides), run_dir.job)
    return str(folder)


def refused(runs: list[str], settings: Settings = Settings(), output: str = "new") -> str:  # noqa: B008  # it is frozen
    with pytest.raises(ConfigError) as error:
        combine(runs, Path(runs[0]).parent / output, settings)
    assert not (Path(runs[0]).parent / "new").exists()
    return str(error.value)


@pytest.mark.parametrize(("which", "step"), [("best", 10), ("last", 20), ("20", 20)])
def test_a_member_is_the_checkpoint_that_is_asked_for(tmp_path: Path, which: str, step: int) -> None:
    run = run_of(tmp_path / "a")
    (found,) = members_of(run, which, snapshots=False)
    assert found.folder == RunDir(tmp_path / "a").checkpoint(step)
    assert members_of(str(found.folder), "best", snapshots=False) == [found]


def test_what_is_no_member_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a")
    assert "has no checkpoint '30': write best, last, or the step of one of step-00000010, step-00000020" in refused(
        [run, run], Settings(checkpoint="30")
    )
    assert "is no run folder: it has no job.yaml" in refused([run, str(tmp_path / "nowhere")])
    assert "one network is no ensemble: name two or more run folders, or --snapshots" in refused([run])
    assert "step-00000010: is named twice: members are different networks" in refused([run, run])
    (tmp_path / "b").mkdir()
    write_job(job_of(tmp_path), tmp_path / "b" / "job.yaml")
    assert "b: has no checkpoint yet: train it first" in refused([run, str(tmp_path / "b")])
    (tmp_path / "a/checkpoints/step-00000020/state.json").write_text("{")
    assert "step-00000020 is damaged" in refused([run, run])
    assert "is a run already" in refused([run, run], output="a")


@pytest.mark.parametrize(
    ("made", "names", "told"),
    [
        ((), ("cat", "dog", "cow"), "have other classes: output 2 is cow in the one and eel in the other (3 and 3 classes)"),
        ((), ("dog", "cat", "eel"), "output 0 is dog in the one and cat in the other"),
        ((), (*CLASSES, "fly"), "output 3 is fly in the one and no class in the other (4 and 3 classes)"),
        (("data.image_size=16",), CLASSES, "were trained on images of 16 and of 8 pixels"),
        (NUMBERS, ("age",), "have the targets NumbersTarget"),
        (("data.normalize=per_image",), CLASSES, "scale pixels by PerImage"),
        (("loss=binary_cross_entropy",), CLASSES, "were trained with the losses binary_cross_entropy and cross_entropy"),
    ],
)  # fmt: skip
def test_networks_that_do_not_go_together_are_refused_with_both_named(
    tmp_path: Path, made: tuple[str, ...], names: tuple[str, ...], told: str
) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", *made, names=names)]
    message = refused(runs)
    assert told in message
    assert f"{tmp_path}/b, step-00000010 and {tmp_path}/a, step-00000010: " in message


def test_networks_of_few_bits_are_no_members(tmp_path: Path) -> None:
    message = refused([run_of(tmp_path / "a"), run_of(tmp_path / "b", "quantization=ternary")])
    assert f"{tmp_path}/b, step-00000010: was trained with quantization ternary, and members compute in full" in message


def test_all_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, names=names) for name, names in (("a", CLASSES), ("b", ("x",)), ("c", ("y",)))]
    RunDir(tmp_path / "c").outputs.unlink()
    told = refused(runs).splitlines()
    assert len(told) == 2
    assert "output 0 is x in the one and cat in the other" in told[0]
    assert "c/outputs.json: is missing, which names the classes: `megabatch eval` of the run writes it" in told[1]


@pytest.mark.parametrize(
    ("settings", "overrides", "told"),
    [
        (Settings(weights=(1.0,)), (), "--weights: are positive numbers, one for each of the 2 members, and not 1"),
        (Settings(weights=(1.0, 0.0)), (), "and not 1, 0"),
        (Settings(weights=(1.0, float("nan"))), (), "and not 1, nan"),
        (Settings(weights="fitted"), ("data.validation_split=null",), "are chosen on the validation split"),
        (Settings(weights="greedy", average="logits"), (), "--weights greedy: is for --average probabilities"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    tmp_path: Path, settings: Settings, overrides: tuple[str, ...], told: str
) -> None:
    assert told in refused([run_of(tmp_path / "a", *overrides), run_of(tmp_path / "b", *overrides)], settings)


def test_snapshots_are_what_a_run_kept_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Arranged:
        def order(self) -> Any:
            return type("Order", (), {"samples": 512})()  # two steps an epoch

    monkeypatch.setattr("megabatch.launcher.study.members.arrange", lambda job: Arranged())
    cycles = run_of(
        tmp_path / "cycles", "epochs=9", "schedule={name: cosine_restarts, cycles: 3}", steps=(6, 11, 12, 16, 18)
    )
    epochs = run_of(tmp_path / "epochs", "epochs=9", "checkpoint.keep_every_epochs=4", steps=(8, 16, 18))
    none = run_of(tmp_path / "none", steps=(8, 16))
    for run, kept in ((cycles, [6, 12, 18]), (epochs, [8, 16])):
        found = members_of(run, "best", snapshots=True)
        assert [member.folder.name for member in found] == [f"step-{step:08d}" for step in kept]
    assert "has 0 checkpoints kept for good, and snapshots are these: train with schedule" in refused(
        [none], Settings(snapshots=True)
    )


def test_the_job_is_the_first_runs_without_what_is_about_its_one_network(tmp_path: Path) -> None:
    own = ("optimizer.groups=[{match: '0.*', frozen: true}]", "optimizer.layer_decay=0.9", "averaging=ema",
           "regularization.dropout=0.3", "engine=fsdp", "model.activation=gelu")  # fmt: skip
    runs = [
        run_of(tmp_path / "a", *own),
        run_of(tmp_path / "b", SCALED, "model.name=timm/resnet18", "model.options={checkpoint_path: w.pt}"),
    ]
    members = [member for run in runs for member in members_of(run, "best", snapshots=False)]
    require_together(members)
    job = _job_of(members, Settings(weights=(3.0, 1.0)))
    recipe, first = job.recipe, members[0].job.recipe
    options = read_options(recipe.model.options)
    assert options.shares == (0.75, 0.25)
    assert [member.name for member in options.members] == [first.model.name, "timm/resnet18"]
    assert options.members[0].activation == first.model.activation
    assert options.members[1].options == {}
    assert [member.normalize for member in options.members] == [None, members[1].job.recipe.data.normalize]
    assert options.normalize == first.data.normalize
    assert (recipe.name, recipe.averaging, recipe.engine.name) == ("digits-ensemble", None, "ddp")
    assert (recipe.optimizer.groups, recipe.optimizer.layer_decay, recipe.regularization.dropout) == ((), 1.0, None)
    assert recipe.data == first.data
    alone = with_weights(job, [0.0, 1.0])
    assert [member.name for member in read_options(alone.recipe.model.options).members] == ["timm/resnet18"]
    assert alone.fingerprint() != job.fingerprint()


def test_lost_channels_come_with_the_member_and_a_changed_plan_is_refused(tmp_path: Path) -> None:
    text = '{"tensors":{}}'
    pruning = f"pruning={{name: inherited, sha256: {hashlib.sha256(text.encode()).hexdigest()}}}"
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", pruning, "model.pretrained=a")]
    RunDir(tmp_path / "b").pruning_plan.write_text(text)
    members = [member for run in runs for member in members_of(run, "best", snapshots=False)]
    options = read_options(_job_of(members, Settings()).recipe.model.options)
    assert [member.pruning_plan for member in options.members] == [None, text]
    RunDir(tmp_path / "b").pruning_plan.write_text(text + " ")
    assert "pruning-plan.json: changed since the job was written" in refused(runs)


def ensemble_run(tmp_path: Path) -> tuple[RunDir, Job]:
    runs = [run_of(tmp_path / name) for name in "ab"]
    members = [member for run in runs for member in members_of(run, "best", snapshots=False)]
    return RunDir(tmp_path / "ab"), _job_of(members, Settings())


def test_a_fused_recipe_begins_with_the_ensemble_and_shares_layers(tmp_path: Path) -> None:
    source, job = ensemble_run(tmp_path)
    recipe = fusion_recipe(source, job, "3", True, None, ["optimizer.weight_decay=0.5"])
    options = read_options(recipe.model.options)
    assert (options.share_until, options.learn_weights) == ("3", True)
    assert options.members == read_options(job.recipe.model.options).members
    assert recipe.model.pretrained is not None
    assert recipe.model.pretrained.source == str(source.root)
    assert (recipe.name, recipe.epochs, recipe.seed) == ("digits-fused", 10, 1)
    assert (recipe.schedule.warmup, recipe.optimizer.weight_decay) == (2.0, 0.5)  # type: ignore[union-attr]
    assert fusion_recipe(source, job, "3", False, 4, []).schedule.warmup == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": load("digits", "laptop").recipe.model}, "is no ensemble: `megabatch ensemble RUN_DIR RUN_DIR"),
        ({"pruning": load("digits", "laptop", ["pruning=inherited"]).recipe.pruning}, "fuse first, then prune"),
    ],
)
def test_what_cannot_be_fused_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    source, job = ensemble_run(tmp_path)
    other = job.model_copy(update={"recipe": job.recipe.model_copy(update=change)})
    with pytest.raises(ConfigError, match=told):
        fusion_recipe(source, other, "3", False, None, [])
    fused = job.model_copy(update={"recipe": fusion_recipe(source, job, "3", False, None, [])})
    with pytest.raises(ConfigError, match="shares its layers up to 3 already"):
        fusion_recipe(source, fused, "3", False, None, [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--weights", "a,b"), "--weights a,b: write uniform, fitted, greedy, or numbers with commas between them"),
        (("--snapshots", "--checkpoint", "last"), "--snapshots takes every checkpoint that was kept for good"),
        (("--average", "votes"), "'votes' is not one of 'probabilities', 'logits'"),
    ],
)
def test_options_that_make_no_sense_end_the_command(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(app, ["ensemble", "a", "b", "--output", "c", *arguments])
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())


def test_what_is_told_names_the_best_member_and_whether_it_is_chance() -> None:
    member = {"checkpoint": "step-1", "same_data": True, "weight": 0.5}
    gain = {"metric": "top1", "gain": 0.0123, "standard_error": 0.004, "only_ensemble_right": 300,
            "only_member_right": 177, "p": 2e-8}  # fmt: skip
    sizes = [{"parameters": n, "milliseconds_1": m} for n, m in ((10, 1.0), (20, 2.0), (30, 3.1))]
    split = {"ensemble": {}, "members": [], "best_member": 1, "gain": gain}
    members = [{"run": "a", **member}, {"run": "b", **member, "same_data": False}]
    found = {"members": members, "sizes": sizes, "test": split, "validation": None}
    assert lines(found) == [
        "30 parameters; one image takes 3.10 ms on one CPU thread, in the members 1.00, 2.00 ms",
        "b was trained on other data than a, whose splits these are",
        "on test, against b, step-1 (its best member there): +1.23 points of top-1, standard error 0.40; the ensemble "
        "alone is right on 300 samples, the member alone on 177 (p = 2e-08, McNemar's test)",
    ]
    numbers = {"metric": "loss", "gain": 0.5, "standard_error": 0.25}
    validated = {**found, "test": None, "validation": {**split, "gain": numbers}}
    assert lines(validated)[-1] == (
        "on validation, against b, step-1 (its best member there): the loss is lower by 0.5, standard error 0.25"
    )
    assert len(lines({**found, "test": None})) == 2
    alone = {**found, "members": [members[0], {**members[0], "weight": 0.0}]}
    assert lines(alone)[1] == "the weights leave one network over: the others add nothing to it on validation"


def test_a_backend_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b")]
    told = refused(runs, Settings(cluster="slurm-example"))
    assert "but `megabatch ensemble` waits for its runs" in told
