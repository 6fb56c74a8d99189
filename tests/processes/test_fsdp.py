"""FSDP2: every part of a recipe works on parameters that are cut among the ranks. Real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.refusals.engines import FSDP_OPTIMIZERS
from megabatch.trainer import checkpoint, loop
from support.ranks import FINISHED, train_together
from support.runs import Workplace, environment, losses
from support.training import training

pytestmark = pytest.mark.processes

EVALUATED = (
    "data.validation_split=validation",
    "evaluation={micro_batch: 4}",
)  # 4 micro-batches of 15 samples: fillers
ADAMW = "optimizer={name: adamw, base_learning_rate: 0.01, scaling: none, weight_decay: 0.1}"
LARS = "optimizer={name: lars, base_learning_rate: 0.5, scaling: none, weight_decay: 1e-3}"
LAMB = "optimizer={name: lamb, base_learning_rate: 0.02, scaling: none, weight_decay: 1e-2}"
CELLS = {
    "one-group": ("engine={name: fsdp}",),
    "named-groups": ("engine={name: fsdp, wrap: ['0', '3', '9']}",),
    "reduced-often": ("engine={name: fsdp, min_parameters: 100, reduce_every_micro_batch: true}",),
    "evaluated-averages": ("averaging={name: ema, decay: 0.8}", "engine={name: fsdp, min_parameters: 100, reshard_after_forward: false}", *EVALUATED),
    "precise": ("model.precise_statistics={samples: 30}", "averaging={name: swa, start: 1 epochs, every: 1 epochs}", *EVALUATED),
    "adamw": (ADAMW, "model.options={norm: false}", "tracking.update_ratio=true", "tracking.gradient_norm=true"),
    "lars": (LARS, "tracking.trust_ratios_every_steps=1"),
    "lars-joint": (LARS.replace("lars,", "lars, denominator: joint, nesterov: true,"),),
    "lamb": (LAMB, "tracking.trust_ratios_every_steps=1"),
    "penalties": ("regularization={l1: 1e-3, l2: 1e-2, clip_value: 0.05}",),
    "adaptive-clipping": ("regularization={clip_adaptive: 0.01}",),
    "passed-over": ("stability={on_bad_step: pass_over, loss_spike: 1.02, window: 5, max_bad_steps: 50}",),
    "rolled-back": (
        "stability={on_bad_step: roll_back, loss_spike: 1.02, window: 5, max_bad_steps: 50, roll_back_steps: 2}",
        "checkpoint.every_steps=4",
    ),
    "recomputed": ("model.checkpoint_activations=['0', '3']",),
}  # fmt: skip
"""Parts of a recipe that touch parameters, gradients, the optimizer's state or the passes through the network."""

FSDP = "engine={name: fsdp, min_parameters: 100}"
BESIDE_DDP = {
    "synchronized": ("precision=fp64", "model.batch_norm=synchronized"),
    "half": ("precision=bf16",),
    "scaled": ("precision={name: fp16, initial_scale: 1e9, growth_interval: 3}",),
}
"""What depends on the number of ranks, or rounds much: compared with ddp on as many ranks."""
ENGINE_BESIDE_DDP = {"half": "engine={name: fsdp, min_parameters: 100, parameter_dtype: bf16, reduce_dtype: fp32}"}

COMMON = ("precision=fp64", "epochs=5", "tracking.every_steps=1")
# AdamW's update of a gradient that is 0 but for rounding is no number to compare: that of a bias before a batch norm.
NOT_COMPARED = {"time", "seconds", "samples_per_second", "data_wait_seconds", "data_wait_share", "attempt"}


def numbers(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what depends on the clock."""
    lines = [*read_metrics(run_dir.metrics, "step"), *read_metrics(run_dir.metrics, "evaluation")]
    lines += read_metrics(run_dir.metrics, "trust_ratios")
    return [{key: value for key, value in line.items() if key not in NOT_COMPARED} for line in lines]


def assert_same(found: Any, expected: Any) -> None:
    """Compare numbers to 1e-9, everything else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-9, abs=1e-12) if isinstance(expected, float) else expected)


def tensors(run_dir: RunDir) -> dict[str, torch.Tensor]:
    """Return all tensors of the newest checkpoint, put together from what the ranks wrote."""
    snapshot = checkpoint.load(max(run_dir.checkpoints.glob("step-*")))
    groups = {"network": snapshot.network, "optimizer": snapshot.optimizer, "averaged": snapshot.averaged}
    return {f"{group}:{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def written_cells(workplace: Workplace, num_ranks: int) -> list[RunDir]:
    """Write the jobs of all cells for this number of ranks."""
    runs = [
        workplace.job(f"fsdp-{name}-{num_ranks}", num_ranks, *COMMON, *_with_engine(wish))
        for name, wish in CELLS.items()
    ]
    for name, wish in BESIDE_DDP.items() if num_ranks > 1 else ():
        for engine, chosen in (("ddp", "engine=ddp"), ("fsdp", ENGINE_BESIDE_DDP.get(name, FSDP))):
            run = f"{engine}-{name}-{num_ranks}"
            runs.append(workplace.job(run, num_ranks, *wish, "epochs=5", "tracking.every_steps=1", chosen))
    return runs


def _with_engine(wish: tuple[str, ...]) -> tuple[str, ...]:
    named = any(text.startswith("engine=") for text in wish)
    return wish if named else (*wish, FSDP)


@pytest.fixture(scope="module")
def cells_of(workplace: Workplace) -> dict[int, str]:
    return {n: train_together(written_cells(workplace, n), n) for n in (1, 3)}


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("name", CELLS)
def test_every_part_of_a_recipe_gives_what_one_plain_process_gives(
    workplace: Workplace, cells_of: dict[int, str], name: str, num_ranks: int
) -> None:
    run_dir = RunDir(workplace.folder / f"fsdp-{name}-{num_ranks}")
    assert (run_dir.root / FINISHED).exists(), cells_of[num_ranks]
    plain = RunDir(workplace.folder / f"plain-of-fsdp-{name}")
    if not plain.metrics.exists():
        wish = [text for text in CELLS[name] if not text.startswith("engine=")]
        with training(workplace, plain.root.name, *COMMON, *wish) as parts:
            loop.train(parts)
    assert_same(numbers(run_dir), numbers(plain))
    found, expected = tensors(run_dir), tensors(plain)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            found[key], tensor, rtol=1e-9, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_steps_are_really_passed_over(workplace: Workplace, cells_of: dict[int, str]) -> None:
    lines = read_metrics(RunDir(workplace.folder / "fsdp-passed-over-3").metrics, "step")
    assert 0 < sum("passed_over" in line for line in lines) < len(lines)


@pytest.mark.parametrize(("name", "tolerance"), [("synchronized", 1e-9), ("half", 0.02), ("scaled", 0.002)])
def test_what_depends_on_the_ranks_or_rounds_much_is_as_with_ddp(
    workplace: Workplace, cells_of: dict[int, str], name: str, tolerance: float
) -> None:
    own, theirs = (RunDir(workplace.folder / f"{engine}-{name}-3") for engine in ("fsdp", "ddp"))
    assert (own.root / FINISHED).exists(), cells_of[3]
    assert losses(own) == pytest.approx(losses(theirs), rel=tolerance)


def test_a_gradient_that_overflows_on_one_rank_is_left_out_on_all(
    workplace: Workplace, cells_of: dict[int, str]
) -> None:
    """The scale starts far too high, so that the first steps overflow; it ends at the same height with both engines."""
    newest = [
        checkpoint.load(max((workplace.folder / f"{engine}-scaled-3" / "checkpoints").glob("step-*")))
        for engine in ("fsdp", "ddp")
    ]
    assert newest[0].state["scaler"] == newest[1].state["scaler"]
    assert newest[0].state["scaler"]["scale"] < 1e9


OPTIMIZER_STEPS = """
import sys
import torch
import torch.distributed as dist
from megabatch.configs.engines import Fsdp
from megabatch.configs.load import validate
from megabatch.trainer.engines.fsdp import FsdpEngine
from megabatch.trainer.sharding import in_one_piece
from megabatch.trainer.world import World
from torch import nn
import timm.optim

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(28, 5), nn.LayerNorm(5)
    ).double()

def optimizer_of(name, parameters):
    library, _, own = name.partition("/")
    if library == "timm":
        return timm.optim.create_optimizer_v2(parameters, opt=own, lr=0.01, weight_decay=0.01)
    return getattr(torch.optim, own)(parameters, lr=0.01)

dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size(), dist.get_rank(), torch.device("cpu"))
images = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
for name in sys.argv[1:]:
    plain, cut = network(), network()
    engine = FsdpEngine(cut, Fsdp(min_parameters=50), world, images)
    optimizers = [optimizer_of(name, list(each.parameters())) for each in (plain, cut)]
    for _ in range(3):
        for each, optimizer, share in zip((plain, engine), optimizers, (1, world.num_ranks)):
            (each(images).square().sum() / share).backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(plain.parameters(), cut.parameters()):
        torch.testing.assert_close(in_one_piece(other.detach()), one.detach(), rtol=1e-9, atol=1e-12, msg=lambda m: name + m)
if world.rank == 0:
    print("compared", len(sys.argv) - 1)
dist.destroy_process_group()
"""


@pytest.mark.matrix
def test_every_optimizer_that_is_not_refused_steps_as_on_whole_parameters(tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(OPTIMIZER_STEPS)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), *sorted(FSDP_OPTIMIZERS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"compared {len(FSDP_OPTIMIZERS)}" in done.stdout
