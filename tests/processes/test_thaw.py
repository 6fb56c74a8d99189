"""Parameters frozen for two epochs, on any ranks and engine, and gone on with from before and after that step.

And a head trained alone, for other classes than those of the weights below it.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint, loop
from support.ranks import train_together
from support.runs import Workplace, losses
from support.training import training

pytestmark = pytest.mark.processes
BODY = "{match: '[01].*', learning_rate_factor: 0.5, weight_decay: 0.01, frozen_until: 2}"
SETTINGS = (
    "precision=fp64", "epochs=4", "checkpoint.every_steps=1", "checkpoint.keep_last=20",
    "optimizer={name: adamw, base_learning_rate: 0.02, scaling: none, weight_decay: 0.001}",
    f"optimizer.groups=[{BODY}]",
)  # fmt: skip
FROZEN = 6  # steps


@pytest.fixture(scope="module")
def on_ranks(workplace: Workplace) -> dict[int, RunDir]:
    with training(workplace, "thawed-1", *SETTINGS) as parts:
        loop.train(parts)
    return {1: parts.run_dir} | {world: workplace.train(f"thawed-{world}", world, *SETTINGS) for world in (2, 3)}


def test_any_number_of_ranks_and_fsdp_train_the_same(workplace: Workplace, on_ranks: dict[int, RunDir]) -> None:
    reference = losses(on_ranks[1])
    on_fsdp = workplace.train("thawed-fsdp", 3, *SETTINGS, "engine={name: fsdp, min_parameters: 100}")
    for run_dir in (on_ranks[2], on_ranks[3], on_fsdp):
        assert losses(run_dir) == pytest.approx(reference, rel=1e-12)


def test_nothing_of_the_group_moves_before_its_step_and_all_of_it_from_there(on_ranks: dict[int, RunDir]) -> None:
    for run_dir in on_ranks.values():
        saved = {step: checkpoint.load(run_dir.checkpoint(step)) for step in (1, FROZEN, FROZEN + 1)}
        names = [name for name in saved[1].network if name[:2] in ("0.", "1.") and name.endswith(("weight", "bias"))]
        assert len(names) == 4
        for name in names:
            first, last, after = (saved[step].network[name] for step in saved)
            assert torch.equal(first, last)
            assert not torch.equal(last, after)
            assert f"{name}/exp_avg" not in saved[FROZEN].optimizer
            assert saved[FROZEN + 1].optimizer[f"{name}/step"] == 1
        assert not torch.equal(saved[1].network["3.weight"], saved[FROZEN].network["3.weight"])


@pytest.mark.parametrize("step", [FROZEN - 1, FROZEN, FROZEN + 1])
def test_a_run_goes_on_from_either_side_of_the_step_with_the_same_bits(
    workplace: Workplace, on_ranks: dict[int, RunDir], step: int
) -> None:
    alone = on_ranks[3]
    resumed = workplace.job(f"thawed-from-{step}", 3, *SETTINGS)
    assert not train_together([resumed], 3, {resumed: alone.checkpoint(step)})
    assert [line["loss"] for line in read_metrics(resumed.metrics, "step")] == losses(alone)[step:]
    ends = [checkpoint.load(run_dir.checkpoint(12)) for run_dir in (alone, resumed)]
    for before, now in ((ends[0].network, ends[1].network), (ends[0].optimizer, ends[1].optimizer)):
        assert before.keys() == now.keys()
        assert all(torch.equal(before[name], now[name]) for name in now)


def test_a_head_for_other_classes_goes_on_with_the_same_bits_and_moves_nothing_else(workplace: Workplace) -> None:
    with training(workplace, "first", "data.classes=[class0, class1]", "epochs=3") as parts:
        loop.train(parts)
    probe = (
        "data.classes=[class2, class0]", "model.train={name: head, match: '9.*'}", "checkpoint.every_steps=1",
        "model.pretrained={source: first, leave_out: ['9.*']}", "checkpoint.keep_last=20", "epochs=3",
    )  # fmt: skip
    with training(workplace, "probe", *probe) as parts:
        new_head = parts.step_parts.engine.network.state_dict()["9.weight"].clone()
        loop.train(parts)
    alone, resumed = parts.run_dir, workplace.job("probe-resumed", 1, *probe)
    shutil.copytree(alone.checkpoint(2), resumed.checkpoint(2))
    with training(workplace, "probe-resumed") as parts:
        assert parts.state.step == 2
        loop.train(parts)
    last = checkpoint.newest(alone)[0]
    assert last is not None
    ends = [checkpoint.load_network(run_dir.checkpoints / last.name) for run_dir in (alone, resumed)]
    before = checkpoint.load_network(checkpoint.chosen(RunDir(workplace.folder / "first"), "last"))
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
    assert {name for name, tensor in ends[0].items() if not torch.equal(tensor, before[name])} == {"9.weight", "9.bias"}
    assert not torch.equal(new_head, before["9.weight"])
    assert not torch.equal(new_head, ends[0]["9.weight"])
