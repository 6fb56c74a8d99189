"""Three ranks on gloo whose parameters are DTensors: they save together; 3, 2 and 1 of them load what was saved.

Run by tests/processes/test_sharded_checkpoints.py with torchrun. Every tensor is a function of its name, so each rank
knows what it must find. 7 rows do not divide by 3; of 2 rows the third rank has none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageReader, load
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from megabatch.configs.evaluation import Checkpoint
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import checkpoint
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors
from megabatch.trainer.saver import Saver
from megabatch.trainer.saving_ranks import Together, saving_ranks
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import _agree, _Sums
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.world import World

SHAPES = {"seven.weight": (7, 3), "two.weight": (2, 5), "vector.bias": (8,), "buffer": (4,), "counter": ()}


def value(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64)


def tensors(mesh: DeviceMesh | None) -> dict[str, torch.Tensor]:
    """All of them shared out over the mesh but for the last two."""
    return {
        name: value(name) if mesh is None or name in ("buffer", "counter") else distribute_tensor(value(name), mesh, [Shard(0)])
        for name in SHAPES
    }  # fmt: skip


def require_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys(), (found.keys(), wanted.keys())
    for name, tensor in found.items():
        assert isinstance(tensor, DTensor) == isinstance(wanted[name], DTensor), name
        assert tensor.shape == wanted[name].shape, name
        here, there = (t.to_local() if isinstance(t, DTensor) else t for t in (tensor, wanted[name]))
        assert torch.equal(here, there), name


def momenta(of: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}/momentum_buffer": tensor for name, tensor in of.items() if name != "counter"}


def saved_on_three_loads_on_three_two_and_one(run_dir: RunDir, together: Together, meshes: list[DeviceMesh]) -> None:
    three, two = meshes
    all_of_it = tensors(three)
    snapshot = Snapshot(all_of_it, momenta(all_of_it), {"training": {"step": 1}}, all_of_it)
    folder = checkpoint.save(run_dir, 1, snapshot.share(together.is_main), None, together)
    assert len(list(folder.glob("model/rank-*.safetensors"))) == 3
    for mesh in (three, two, None):
        if mesh is two and dist.get_rank() == 2:
            continue
        like = tensors(mesh)
        found = checkpoint.load(folder, like=like)
        require_equal(found.network, like)
        require_equal(found.optimizer, momenta(like))
        require_equal(found.averaged, like)
        require_equal(checkpoint.load_network(folder, like=like), like)


def saved_plain_loads_sharded(run_dir: RunDir, mesh: DeviceMesh) -> None:
    """From ddp to fsdp."""
    if dist.get_rank() == 0:
        checkpoint.save(run_dir, 2, Snapshot(tensors(None), {}, {"training": {"step": 2}}))
    dist.barrier()
    require_equal(checkpoint.load(run_dir.checkpoint(2), like=tensors(mesh)).network, tensors(mesh))


def dcp_reads_what_we_write(folder: Path, meshes: list[DeviceMesh]) -> None:
    """The independent reader: torch's own, resharding, of the files of three ranks."""
    for mesh in (meshes[0], None):
        wanted = tensors(mesh)
        blank = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
        load(blank, storage_reader=HuggingFaceStorageReader(str(folder / "model")), no_dist=True)
        require_equal(blank, wanted)


def copies_are_written_once(run_dir: RunDir, together: Together) -> None:
    """Of a tensor that all ranks have whole, as a DTensor, only one rank writes it."""
    mesh = DeviceMesh("cpu", list(range(3)))
    whole = {"seven.weight": distribute_tensor(value("seven.weight"), mesh, [Replicate()])}
    folder = checkpoint.save(run_dir, 3, Snapshot(whole, {}, {}).share(together.is_main), None, together)
    sizes = [file.stat().st_size for file in sorted(folder.glob("model/*"))]
    assert sizes[0] > sizes[1] == sizes[2], sizes
    require_equal(checkpoint.load(folder).network, {"seven.weight": value("seven.weight")})


def a_full_disk_on_one_rank_stops_all(run_dir: RunDir, together: Together, mesh: DeviceMesh) -> None:
    rank = dist.get_rank()
    share = Snapshot(tensors(mesh), {}, {}).share(together.is_main)
    original = checkpoint.write_file

    def no_room(file: Path, pieces: object) -> object:
        raise OSError(28, "No space left on device", str(file))

    if rank == 1:
        checkpoint.write_file = no_room
    with pytest.raises(OSError, match=r"No space left on device.*\(rank 1\)"):
        checkpoint.save(run_dir, 4, share, None, together)
    checkpoint.write_file = original
    dist.barrier()
    if rank == 0:
        assert checkpoint.steps_saved(run_dir) == [1, 2, 3]
        assert not list(run_dir.checkpoints.glob(".*"))


def saved_in_the_background_while_training_goes_on(run_dir: RunDir, mesh: DeviceMesh) -> None:
    """FSDP2's own parameters, with an optimizer that steps right after the call, and collectives of the training."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW([{"params": [p], "param_names": [n]} for n, p in model.named_parameters()], lr=0.1)
    world = World(dist.get_rank(), 3, 0, torch.device("cpu"))
    saver = Saver(run_dir, Checkpoint(keep_last=2), saving_ranks(world, model), Trackers(()))
    assert saver.takes_part
    for step in range(10, 15):
        model(torch.full((4, 5), float(step))).sum().backward()
        optimizer.step()
        snapshot = Snapshot(dict(model.state_dict()), optimizer_tensors(optimizer), {"training": {"step": step}})
        wanted = {name: tensor.detach().to_local().clone() for name, tensor in snapshot.network.items()}
        saver.save(TrainState(step=step), snapshot, set)
        optimizer.step()
        saver.wait()
        dist.barrier()
        found = checkpoint.load(run_dir.checkpoint(step), saver.damage_of, dict(model.state_dict()))
        for name, tensor in found.network.items():
            assert torch.equal(tensor.to_local(), wanted[name]), name
        assert {name.rpartition("/")[2] for name in found.optimizer} == {"step", "exp_avg", "exp_avg_sq"}
        model.load_state_dict(found.network)
        load_optimizer(optimizer, found.optimizer, optimizer_numbers(optimizer))
        require_equal(optimizer_tensors(optimizer), found.optimizer)
    saver.close()
    dist.barrier()
    if dist.get_rank() == 0:
        assert checkpoint.steps_saved(run_dir) == [13, 14]
    damaged_part_is_seen(run_dir)


def damaged_part_is_seen(run_dir: RunDir) -> None:
    if dist.get_rank() == 0:
        part = run_dir.checkpoint(14) / "model" / "rank-00002.safetensors"
        part.write_bytes(part.read_bytes()[:-1] + b"x")
        found, (message,) = checkpoint.newest(run_dir)
        assert found == run_dir.checkpoint(13)
        assert "model/rank-00002.safetensors is not as it was written" in message
        with pytest.raises(TrainingError, match="Use another checkpoint"):
            checkpoint.load(run_dir.checkpoint(14))


def a_save_that_is_due_on_rank_0_is_known_to_all() -> None:
    """By the one reduction that a step has, in which all else stays what it was."""
    rank = dist.get_rank()
    request = SimpleNamespace(step_samples=6)
    for due in (True, False):
        parts = SimpleNamespace(
            engine=SimpleNamespace(num_ranks=3, sum_over_ranks=dist.all_reduce), device=torch.device("cpu"),
            stop_requested=lambda: False, save_due=lambda due=due: due and rank == 0,
            batch_norm=StepBatchNorm(torch.nn.BatchNorm1d(2)),
        )  # fmt: skip
        parts.batch_norm.begin()
        own = _Sums([torch.tensor(0.5 + rank)], skipped=["a sample"] * rank)  # type: ignore[list-item]
        loss, skipped, stop, save = _agree(parts, own, request)  # type: ignore[arg-type]
        assert (loss, skipped, stop, save) == (4.5 * 6 / 3, 3, False, due), (loss, skipped, stop, save)


def main() -> None:
    dist.init_process_group("gloo")
    folder = Path(sys.argv[1])
    run_dir = RunDir(folder / "run")
    three, two = (DeviceMesh("cpu", list(range(ranks))) for ranks in (3, 2))
    together = Together(dist.get_rank())
    saved_on_three_loads_on_three_two_and_one(run_dir, together, [three, two])
    saved_plain_loads_sharded(run_dir, three)
    dcp_reads_what_we_write(run_dir.checkpoint(1), [three, two])
    copies_are_written_once(run_dir, together)
    a_full_disk_on_one_rank_stops_all(run_dir, together, three)
    a_save_that_is_due_on_rank_0_is_known_to_all()
    saved_in_the_background_while_training_goes_on(RunDir(folder / "background"), three)
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps("done"))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
