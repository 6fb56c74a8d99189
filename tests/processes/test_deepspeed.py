"""The engine deepspeed trains as one plain process does, at every stage; one torchrun for all cells of a world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint, loop
from support.ranks import FAILED, FINISHED, train_together
from support.runs import Workplace, finish, kill_after_step, losses, steps_done, trained_samples
from support.training import training

pytestmark = pytest.mark.processes

STAGES = (0, 1, 2, 3)
SAVED = "checkpoint.every_steps=4"
ADAMW = (
    'optimizer={name: adamw, base_learning_rate: 0.01, scaling: none, weight_decay: 1e-2, groups: [{match: "0.*", '
    "learning_rate_factor: 0.5}]}"
)
LARS = "optimizer={name: lars, base_learning_rate: 0.02, scaling: none, weight_decay: 1e-3}"
MUCH = (
    ADAMW, "regularization={l1: 1e-4, l2: 1e-3, clip_norm: 0.05}", "tracking={sample_log: true, gradient_norm: true, "
    "update_ratio: true}", "stability={on_bad_step: pass_over, loss_spike: 1.0001, window: 5, max_bad_steps: 30}", "epochs=5",
    "data.validation_split=validation", "model.precise_statistics.samples=20",
)  # fmt: skip
VALUES = ("regularization.clip_norm=null", "regularization.clip_value=0.01", "model.batch_norm=synchronized")
CELLS: dict[str, tuple[str, ...]] = {
    "plain": (SAVED,),
    "much": MUCH,
    "averaged": (*MUCH, "averaging=ema"),
    "values": VALUES,
    "bf16": ("precision=bf16",),
    "fp16": ("precision={name: fp16, initial_scale: 1024, growth_interval: 2}",),
    "lars": (LARS,),
    "rolled-back": (
        SAVED,
        "epochs=5",
        "tracking={sample_log: true, every_steps: 1}",
        "stability={on_bad_step: roll_back, loss_spike: 1.02, window: 5, max_bad_steps: 50, roll_back_steps: 2}",
    ),
    "again": ('model.checkpoint_activations=["0", "3"]',),
}
# what is trained at which stage, and the reference it is compared with
AT_STAGE = {
    0: ("plain", "much", "fp16", "lars"),
    1: ("plain", "averaged", "bf16"),
    2: ("plain", "much", "values", "rolled-back"),
    3: ("plain", "much", "bf16", "again", "rolled-back"),
}
TOLERANCE = {"bf16": 1e-3, "fp16": 1e-3}


def engine(stage: int, more: str = "") -> str:
    whole = ", stage3_param_persistence_threshold: 0, sub_group_size: 300" if stage == 3 else ""
    return f"engine={{name: deepspeed, zero_stage: {stage}{whole}{more}}}"


def alone(workplace: Workplace, run: str, *overrides: str) -> RunDir:
    """Train in this process with the engine ddp, which is the bare network on one rank."""
    with training(workplace, run, *overrides) as parts:
        loop.train(parts)
        return parts.run_dir


@pytest.fixture(scope="module")
def references(workplace: Workplace) -> dict[str, RunDir]:
    """What one rank trains; with batch norms that are synchronized, which depends on the ranks, what three do."""
    three = workplace.job("ds-values", 3, *VALUES)
    return {"values": three} | {
        cell: alone(workplace, f"ds-{cell}", *overrides) for cell, overrides in CELLS.items() if cell != "values"
    }


@pytest.fixture(scope="module")
def runs(workplace: Workplace, references: dict[str, RunDir]) -> dict[str, RunDir]:
    """All cells on three ranks; some go on from a checkpoint of step 4 written by themselves or by the engine ddp."""
    found = {
        f"{cell}-{stage}": workplace.job(f"ds-{cell}-{stage}", 3, *CELLS[cell], engine(stage))
        for stage, cells in AT_STAGE.items()
        for cell in cells
    }
    begin_with: dict[RunDir, Path] = {}
    for stage in STAGES:
        for before, source in (("itself", found[f"plain-{stage}"]), ("ddp", references["plain"])):
            name = f"{before}-{stage}"
            found[name] = workplace.job(f"ds-from-{name}", 3, *CELLS["plain"], engine(stage))
            begin_with[found[name]] = source.checkpoint(4)
    assert not train_together([references["values"], *found.values()], 3, begin_with)
    return found


@pytest.mark.parametrize(("stage", "cell"), [(stage, cell) for stage, cells in AT_STAGE.items() for cell in cells])
def test_every_stage_trains_as_one_plain_process(
    references: dict[str, RunDir], runs: dict[str, RunDir], stage: int, cell: str
) -> None:
    reference, run_dir = references["much" if cell == "averaged" else cell], runs[f"{cell}-{stage}"]
    assert (run_dir.root / FINISHED).exists()
    assert losses(run_dir)[:5] == pytest.approx(losses(reference)[:5], rel=TOLERANCE.get(cell, 1e-5))
    assert len(losses(run_dir)) == len(losses(reference))
    assert trained_samples(run_dir) == trained_samples(reference)


@pytest.mark.parametrize("stage", STAGES)
def test_norms_update_ratios_bad_steps_and_evaluations_are_those_of_one_process(
    references: dict[str, RunDir], runs: dict[str, RunDir], stage: int
) -> None:
    name = "averaged" if stage == 1 else "much"
    for kind, keys in (("step", ("gradient_norm", "update_ratio")), ("evaluation", ("loss", "top1"))):
        expected = read_metrics(references[name].metrics, kind)
        got = read_metrics(runs[f"{name}-{stage}"].metrics, kind)
        assert len(got) == len(expected)
        for key in keys:
            values = [[line.get(key) or 0.0 for line in lines] for lines in (got, expected)]
            assert values[0] == pytest.approx(values[1], rel=1e-3)
            assert any(values[0])
    passed_over = [line["step"] for line in read_metrics(references[name].metrics, "step") if line.get("passed_over")]
    assert any(step % 3 for step in passed_over)  # some are whole steps, which three ranks share unevenly
    got = read_metrics(runs[f"{name}-{stage}"].metrics, "step")
    assert [line["step"] for line in got if line.get("passed_over")] == passed_over


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_is_that_of_one_process_and_holds_everything(
    references: dict[str, RunDir], runs: dict[str, RunDir], stage: int
) -> None:
    expected, got = (checkpoint.load(run.checkpoint(6)) for run in (references["plain"], runs[f"plain-{stage}"]))
    assert got.state["optimizer"] == expected.state["optimizer"]
    for before, after in ((expected.network, got.network), (expected.optimizer, got.optimizer)):
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert after[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(runs: dict[str, RunDir], stage: int) -> None:
    whole, rest = runs[f"plain-{stage}"], runs[f"itself-{stage}"]
    assert [line["loss"] for line in read_metrics(rest.metrics, "step")] == losses(whole)[4:]
    assert final(rest, 6) == final(whole, 6)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_ddp_goes_on_with_deepspeed(
    references: dict[str, RunDir], runs: dict[str, RunDir], stage: int
) -> None:
    got = [line["loss"] for line in read_metrics(runs[f"ddp-{stage}"].metrics, "step")]
    assert got == pytest.approx(losses(references["plain"])[4:], rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_deepspeed_goes_on_with_ddp(
    workplace: Workplace, references: dict[str, RunDir], runs: dict[str, RunDir], stage: int
) -> None:
    run_dir = workplace.job(f"ds-back-{stage}", 1, *CELLS["plain"])
    shutil.copytree(runs[f"plain-{stage}"].checkpoint(4), run_dir.checkpoint(4))
    alone(workplace, f"ds-back-{stage}")
    got = [line["loss"] for line in read_metrics(run_dir.metrics, "step")]
    assert got == pytest.approx(losses(references["plain"])[4:], rel=1e-5)


def final(run_dir: RunDir, step: int) -> dict[str, bytes]:
    snapshot = checkpoint.load(run_dir.checkpoint(step))
    return {name: tensor.numpy().tobytes() for name, tensor in {**snapshot.network, **snapshot.optimizer}.items()}


def killed_once(workplace: Workplace, stage: int) -> None:
    overrides = ("epochs=40", "checkpoint.every_epochs=40", SAVED, engine(stage))
    left_alone = workplace.train(f"ds-alone-{stage}", 2, *overrides)
    killed = workplace.job(f"ds-killed-{stage}", 2, *overrides)
    kill_after_step(workplace.start(killed), killed, 30, victim=1)
    assert steps_done(killed) < 120
    finish(workplace.start(killed), killed)
    assert losses(killed) == losses(left_alone)
    assert trained_samples(killed) == trained_samples(left_alone)
    assert final(killed, 120) == final(left_alone, 120)


def test_a_killed_run_ends_with_the_same_bits(workplace: Workplace) -> None:
    killed_once(workplace, stage=2)


@pytest.mark.matrix
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_killed_run_ends_with_the_same_bits_at_every_stage(workplace: Workplace, stage: int) -> None:
    killed_once(workplace, stage)


@pytest.mark.matrix
@pytest.mark.parametrize("world", [1, 2, 3])
def test_worlds_accumulation_and_clipping(workplace: Workplace, world: int) -> None:
    cells = {}
    for accumulation in (1, 4):
        for clip in ("null", "0.05"):
            batch = f"batch={{global_batch: 24, micro_batch: {24 // (world * accumulation)}}}"
            overrides = (batch, f"regularization.clip_norm={clip}")
            reference = alone(workplace, f"ds-ref-{world}-{accumulation}-{clip}", *overrides)
            for stage in STAGES:
                run = f"ds-{world}-{accumulation}-{clip}-{stage}"
                cells[run] = (reference, workplace.job(run, world, *overrides, engine(stage)))
    assert not train_together([run_dir for _, run_dir in cells.values()], world)
    for reference, run_dir in cells.values():
        assert losses(run_dir)[:5] == pytest.approx(losses(reference)[:5], rel=1e-5)
        assert trained_samples(run_dir) == trained_samples(reference)


@pytest.mark.matrix
def test_options_and_a_json_of_ones_own(workplace: Workplace, references: dict[str, RunDir]) -> None:
    own = {
        "train_batch_size": 20, "gradient_clipping": "auto", "prescale_gradients": True,
        "zero_optimization": {"stage": 1, "overlap_comm": True, "contiguous_gradients": False},
    }  # fmt: skip
    (workplace.folder / "ds.json").write_text(json.dumps(own))
    options = {
        "offload-1": engine(1, ", offload_optimizer: cpu"),
        "offload-2": engine(2, ", offload_optimizer: cpu"),
        "offload-3": engine(3, ", offload_optimizer: cpu"),
        "buckets-2": engine(2, ", reduce_bucket_size: 100, allgather_bucket_size: 100"),
        "file": "engine={name: deepspeed, config_file: ds.json}",
        "order-2": "engine={name: deepspeed, config: {zero_optimization: {stage: 2, round_robin_gradients: true, "
        "parameter_alignment: true, reduce_scatter: false}}}",
        "fetch-3": "engine={name: deepspeed, config: {zero_optimization: {stage: 3, overlap_comm: false, "
        "stage3_param_persistence_threshold: 0, stage3_use_all_reduce_for_fetch_params: true, "
        "stage3_module_granularity_threshold: 10}}}",
        "one-by-one-3": "engine={name: deepspeed, config: {zero_optimization: {stage: 3, "
        "stage3_param_persistence_threshold: 0, stage3_allgather_sequential: true}}}",
        "wrong-1": "engine={name: deepspeed, config: {zero_optimization: {stage: 1, sub_group_size: many}}}",
    }
    runs = {name: workplace.job(f"ds-{name}", 2, *MUCH, options[name]) for name in options}
    wrong = train_together(list(runs.values()), 2)
    assert wrong.startswith("ds-wrong-1: ")
    assert (runs.pop("wrong-1").root / FAILED).read_text() == wrong
    assert "DeepSpeed does not take engine.config" in wrong
    assert "sub_group_size" in wrong
    for run_dir in runs.values():
        assert losses(run_dir)[:5] == pytest.approx(losses(references["much"])[:5], rel=1e-5)
        assert losses(run_dir) == pytest.approx(losses(references["much"]), rel=1e-3)


def test_parameters_that_take_no_part_are_refused(workplace: Workplace) -> None:
    run_dir = workplace.job("ds-unused", 1, "model.name=network:Unused", "model.options={}", engine(1))
    told = train_together([run_dir], 1)
    assert "some parameters of the model take no part in its output" in told
