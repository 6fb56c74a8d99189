"""Stages with real ranks: killed and gone on with, to the same bits; the same on any number of ranks and engine."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from megabatch.configs.engines import Engine, Fsdp
from megabatch.configs.load import read_job
from megabatch.configs.metrics import read_metrics
from megabatch.configs.parent import descendants
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.save_job import write_job
from megabatch.trainer import checkpoint, loop
from megabatch.trainer.continual.measure import measure
from support.ranks import train_together
from support.runs import Workplace, losses, wait_for_step
from support.training import training

pytestmark = pytest.mark.processes
# "unhurried", so that there is time to kill it
STAGES = (
    "continual.stages=[{classes: [class2, class0]}, {classes: [class1], epochs: 4}]", "data.validation_split=validation",
    "data.test_split=test", "continual.replay={samples: 6, share: 0.4}", "continual.ewc={strength: 50, samples: 9}",
    "continual.lwf={}", "model.name=network:unhurried", "checkpoint={every_steps: 2, keep_last: 9}", "epochs=2",
    "precision=fp64",
)  # fmt: skip
WHOLE = "whole"


@pytest.fixture(scope="module")
def killed(workplace: Workplace) -> RunDir:
    """Two stages, in the second of which launcher and rank are killed; and what went on from there."""
    run_dir = RunDir(workplace.folder / WHOLE)
    launcher = workplace.popen("launch", "recipe.yaml", "--run-dir", WHOLE, "cluster.processes_per_node=1", *STAGES)
    wait_for_step(run_dir.stage(2), 3, launcher)
    ranks = descendants(launcher.pid)
    launcher.kill()
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    launcher.wait()
    assert not run_dir.stage(2).stage_result.exists()
    first = run_dir.stage(1).stage_result.stat().st_mtime_ns
    done = workplace.megabatch("launch", "--resume", WHOLE)
    assert done.returncode == 0, done.stderr
    assert "stage 1 of 2" not in done.stdout
    assert "forgetting:" in done.stdout
    assert run_dir.stage(1).stage_result.stat().st_mtime_ns == first
    return run_dir


def copied(stage: RunDir, name: str, num_ranks: int, engine: Engine | None = None) -> RunDir:
    """Another run of the job of a stage."""
    run_dir = RunDir(stage.root.parents[2] / name)
    run_dir.root.mkdir()
    job = read_job(stage.job)
    cluster = job.cluster.model_copy(update={"processes_per_node": num_ranks})
    recipe = job.recipe.model_copy(update={"engine": engine or job.recipe.engine})
    write_job(job.model_copy(update={"cluster": cluster, "recipe": recipe}), run_dir.job)
    return run_dir


@pytest.fixture(scope="module")
def uninterrupted(workplace: Workplace, killed: RunDir) -> list[RunDir]:
    """The same two stages in this process, without an end in between."""
    found = []
    for number in (1, 2):
        with training(workplace, copied(killed.stage(number), f"again-{number}", 1).root.name) as parts:
            loop.train(parts)
            found.append(parts.run_dir)
    return found


def test_stages_that_were_killed_end_with_the_bits_of_those_that_were_not(
    killed: RunDir, uninterrupted: list[RunDir]
) -> None:
    for number, alone in enumerate(uninterrupted, start=1):
        mine, its = (checkpoint.load(checkpoint.chosen(run, "last")) for run in (killed.stage(number), alone))
        assert mine.network.keys() == its.network.keys()
        for group, tensors in mine.groups().items():
            assert all(torch.equal(tensor, its.groups()[group][name]) for name, tensor in tensors.items())


def test_a_stage_begins_with_the_network_before_it_and_a_larger_head(killed: RunDir) -> None:
    job = read_job(killed.stage(2).job)
    pretrained = job.recipe.model.pretrained
    assert pretrained is not None
    assert pretrained.source.startswith(f"{WHOLE}/stages/1/checkpoints/step-")
    assert (job.recipe.data.classes, pretrained.outputs) == (("class2", "class0", "class1"), (0, 1))
    assert job.recipe.seed == read_job(killed.stage(1).job).recipe.seed + 1
    began = json.loads(killed.stage(2).pretrained.read_text())
    assert [one["name"] for one in began["grown"]] == ["9.weight", "9.bias"]
    ewc, teachers = job.recipe.regularization.ewc, job.recipe.distillation
    assert ewc is not None
    assert teachers is not None
    assert ewc.sha256 == json.loads(killed.stage(1).stage_result.read_text())["ewc_sha256"]
    assert (teachers.outputs, teachers.temperature, teachers.share) == ((0, 1), 2.0, 0.5)
    assert all("distillation_loss" in line for line in read_metrics(killed.stage(2).metrics, "step"))


def test_what_is_measured_is_what_an_evaluation_says(workplace: Workplace, killed: RunDir) -> None:
    found = json.loads(killed.continual.read_text())
    whole = json.loads(killed.stage(2).result.read_text())["test"]
    assert found["all"][1] == pytest.approx(whole["top1"])
    assert [stage["samples"] for stage in found["stages"]] == [10, 5]
    assert found["accuracy"][1] == json.loads(killed.stage(2).stage_result.read_text())["accuracy"]
    assert found["forgetting"] == pytest.approx(found["accuracy"][0][0] - found["accuracy"][1][0])
    with training(workplace, killed.stage(2).root.relative_to(workplace.folder).as_posix()) as parts:
        again = measure(parts, None)
        assert again["accuracy"] == found["accuracy"][1]
        assert (again["before"], again["random"]) == (found["before"][1], found["random"][1])
    shown = killed.continual.with_suffix(".html").read_text()
    assert "on stage 2" in shown
    assert "<script" not in shown


@pytest.mark.parametrize(("num_ranks", "engine"), [(3, None), (2, Fsdp(min_parameters=100))])
def test_any_number_of_ranks_and_shards_learn_the_same(
    killed: RunDir, uninterrupted: list[RunDir], num_ranks: int, engine: Engine | None
) -> None:
    run_dir = copied(killed.stage(2), f"on-{num_ranks}", num_ranks, engine)
    failed = train_together([run_dir], num_ranks)
    assert not failed, failed
    assert losses(run_dir) == pytest.approx(losses(uninterrupted[1]), rel=1e-9)
    mine, its = (checkpoint.load(checkpoint.chosen(run, "last")).network for run in (run_dir, uninterrupted[1]))
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, its[name], rtol=1e-8, atol=1e-10)


def test_the_network_before_teaches_the_classes_that_it_knows(workplace: Workplace, killed: RunDir) -> None:
    with training(workplace, copied(killed.stage(2), "taught", 1).root.name) as parts:
        distiller = parts.step_parts.distiller
        assert distiller is not None
        images_NCHW = parts.step_parts.normalize(torch.randint(0, 256, (7, 8, 8, 3), dtype=torch.uint8))
        outputs_NK, losses_N = torch.randn(7, 3, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
        found_N = distiller.mixed(losses_N, outputs_NK, images_NCHW)
        ((teacher, _, _),) = distiller._teachers
        with torch.no_grad():
            p_NJ = torch.softmax(teacher(images_NCHW) / 2, dim=1)
        assert p_NJ.shape == (7, 2)
        q_NJ = torch.softmax(outputs_NK[:, :2] / 2, dim=1)
        expected_N = 0.5 * 4 * (p_NJ * (p_NJ / q_NJ).log()).sum(dim=1) + 0.5 * losses_N
        torch.testing.assert_close(found_N, expected_N)


def test_the_penalty_holds_what_mattered_fast(
    workplace: Workplace, killed: RunDir, uninterrupted: list[RunDir]
) -> None:
    """With a strength near 0 the same stage moves the weights of before further, measured by what mattered."""
    tensors = load_file(killed.stage(1).ewc)
    weak = copied(killed.stage(2), "weak", 1)
    weak.job.write_text(weak.job.read_text().replace("strength: 50.0", "strength: 1.0e-09"))
    with training(workplace, "weak") as parts:
        loop.train(parts)

    def moved(run_dir: RunDir) -> float:
        network = checkpoint.load_network(checkpoint.chosen(run_dir, "last"))
        distances = [
            (value * (network[name][: len(value)] - tensors[f"anchor/{name}"]) ** 2).sum()
            for name, value in ((n.removeprefix("fisher/"), t) for n, t in tensors.items() if n.startswith("fisher/"))
        ]
        return float(torch.stack(distances).sum())

    assert 0 < moved(uninterrupted[1]) < 0.9 * moved(weak)


def test_a_run_with_stages_stands_for_the_newest_of_them(workplace: Workplace, killed: RunDir) -> None:
    done = workplace.megabatch("eval", WHOLE, "--split", "test", "--raw")
    assert done.returncode == 2
    assert f"{WHOLE}/stages/2: the recipe has no averaging" in done.stderr
    again = workplace.megabatch("launch", "--resume", WHOLE)
    assert again.returncode == 0
    assert "average accuracy:" in again.stdout
