"""Averaged weights, and steps that are passed over, in real runs: on any number of ranks, killed or not."""

from __future__ import annotations

import json

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from support.runs import Workplace, finish, kill_after_step, losses

pytestmark = pytest.mark.processes
SHORT = ("epochs=12", "checkpoint.every_epochs=12", "checkpoint.every_steps=4")
EXPLODING = """

class Exploding(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.inner = small(num_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        out = self.inner(images)
        if self.training:
            self.steps += 1
            if 6 < int(self.steps) <= 7:
                return out * float("nan")
        return out
"""


def averaged(run_dir: RunDir, step: int) -> dict[str, bytes]:
    snapshot = checkpoint.load(run_dir.checkpoint(step))
    assert snapshot.averaged.keys() == snapshot.network.keys()
    return {name: tensor.numpy().tobytes() for name, tensor in snapshot.averaged.items()}


@pytest.mark.parametrize(
    "kind",
    ["{name: ema, decay: 0.9}", pytest.param("{name: swa, start: 2, every: 2 steps}", marks=pytest.mark.matrix)],
)
def test_a_killed_run_has_the_average_of_one_left_alone(workplace: Workplace, kind: str) -> None:
    name = kind[7:10]
    wish = (*SHORT, f"averaging={kind}", "data.validation_split=validation", "data.test_split=test")
    alone = workplace.train(f"{name}-alone", 1, *wish)
    killed = workplace.job(f"{name}-killed", 1, *wish)
    kill_after_step(workplace.start(killed), killed, 22, victim=0)
    finish(workplace.start(killed), killed)
    assert averaged(killed, 36) == averaged(alone, 36)
    evaluations = [read_metrics(run.metrics, "evaluation") for run in (alone, killed)]
    assert [line["loss"] for line in evaluations[0]] == [line["loss"] for line in evaluations[1]]
    shown = {}
    for which in ((), ("--raw",)):
        done = workplace.megabatch("eval", f"{name}-alone", "--split", "validation", "--checkpoint", "last", *which)
        assert done.returncode == 0, done.stderr
        shown[which] = json.loads((alone.root / "evaluation-validation-last.json").read_text())["loss"]
    last = [line["loss"] for line in evaluations[0] if line["split"] == "validation"][-1]
    assert shown[()] == pytest.approx(last, rel=1e-6)
    assert shown["--raw",] != pytest.approx(last, rel=1e-6)


def test_raw_weights_of_a_run_without_averaging_are_refused(workplace: Workplace) -> None:
    workplace.train("no-average", 1, "epochs=1")
    done = workplace.megabatch("eval", "no-average", "--split", "validation", "--raw")
    assert done.returncode == 2
    assert "the recipe has no averaging: leave out --raw" in done.stderr


def test_a_loss_that_is_no_number_is_passed_over_and_leaves_no_trace(workplace: Workplace) -> None:
    """One rank with one micro-batch a step: the seventh step is not a number; weights and statistics stay as they were."""
    (workplace.folder / "exploding.py").write_text(
        "import torch\n" + (workplace.folder / "network.py").read_text() + EXPLODING
    )
    wish = (*SHORT, "model={name: 'exploding:Exploding'}", "batch={global_batch: 20, micro_batch: 20}")
    stopped = workplace.job("stopped", 1, *wish)
    assert workplace.start(stopped).wait(timeout=300) == 1
    told = "".join(file.read_text() for file in stopped.failures())
    assert (
        "step 7: the loss is nan (loss nan, gradient norm nan). Its samples are positions 0 to 19 of epoch 3; " in told
    )
    assert "The run ends before the optimizer update" in told
    assert read_metrics(stopped.metrics, "step")[-1]["passed_over"] == "the loss is nan"
    passed = workplace.train("passed", 1, *wish, "stability={on_bad_step: pass_over}", "tracking.every_steps=6")
    steps = read_metrics(passed.metrics, "step")
    assert [line["step"] for line in steps if "passed_over" in line] == [7]
    assert [line["step"] for line in steps] == [6, 7, 12, 18, 24, 30, 36]
    assert steps[1]["loss"] is None
    assert steps[-1]["loss"] < 5
    text = passed.metrics.read_text()
    assert (
        "step 7: the loss is nan (loss nan, gradient norm nan). Its samples are positions 0 to 19 of epoch 3; " in text
    )
    assert "No update; bad step 1 of at most 10" in text


def test_penalties_and_clipping_are_the_same_on_any_number_of_ranks(workplace: Workplace) -> None:
    wish = (*SHORT, "precision=fp64", "regularization={l1: 1e-3, l2: 1e-2, clip_adaptive: 0.05}",
            "stability={on_bad_step: pass_over, loss_spike: 1.2, window: 5}", "loss={name: cross_entropy, class_weights: balanced}",
            "tracking={sample_log: true, gradient_norm: true, update_ratio: true}")  # fmt: skip
    one, two = (workplace.train(f"penalties-{ranks}", ranks, *wish) for ranks in (1, 2))
    assert losses(one) == pytest.approx(losses(two), rel=1e-9)
    norms = [[line["gradient_norm"] for line in read_metrics(run.metrics, "step")] for run in (one, two)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    ratios = [[line.get("update_ratio", 0.0) for line in read_metrics(run.metrics, "step")] for run in (one, two)]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-9)
    assert max(ratios[0]) > 0
    passed = [
        [line["step"] for line in read_metrics(run.metrics, "step") if "passed_over" in line] for run in (one, two)
    ]
    assert passed[0] == passed[1]


def test_overflows_of_fp16_are_left_to_the_loss_scale(workplace: Workplace) -> None:
    """The first steps overflow until the scale has come down: none of them counts as passed over."""
    wish = (
        *SHORT,
        "precision={name: fp16, initial_scale: 1e9}",
        "stability={on_bad_step: pass_over, max_bad_steps: 1}",
    )
    run = workplace.train("fp16-guarded", 1, *wish, "tracking={gradient_norm: true, every_steps: 5}")
    lines = read_metrics(run.metrics, "step")
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 35, 36]
    assert checkpoint.load(run.checkpoint(36)).state["scaler"]["scale"] < 1e9
    assert not any("passed_over" in line for line in lines)
