"""Weights from files as others write them, into networks that fit them, in part, or not at all."""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.network import Built, build_network
from megabatch.trainer.pretrained.load import load_weights
from megabatch.trainer.pretrained.read import Weights, weights_to_begin_with


def job_of(folder: Path, pretrained: str, *overrides: str, **options: object) -> Job:
    model = ("model.name=timm/test_resnet", f"model.options={json.dumps(options)}", f"model.pretrained={pretrained}")
    loaded = load("digits", "laptop", [*model, *overrides])
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1"
    )


def begun(folder: Path, pretrained: str, **options: object) -> Built:
    job = job_of(folder, pretrained, **options)
    return build_network(job.recipe, 10, weights_to_begin_with(job))


def other_resnet(classes: int = 10) -> nn.Module:
    torch.manual_seed(77)
    network: nn.Module = timm.create_model("test_resnet", num_classes=classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return network


def same_state(network: nn.Module, other: nn.Module, leaving_out: tuple[str, ...] = ()) -> bool:
    mine, its = network.state_dict(), other.state_dict()
    assert mine.keys() == its.keys()
    return all(torch.equal(mine[name], its[name]) for name in mine if name not in leaving_out)


def as_safetensors(network: nn.Module, file: Path) -> None:
    save_file(network.state_dict(), file)


def as_timm_checkpoint(network: nn.Module, file: Path) -> None:
    """What timm's train.py writes: arguments, the weights, their average, the optimizer."""
    wrong = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    averaged = collections.OrderedDict({f"module.{n}": t for n, t in network.state_dict().items()})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).state_dict()
    torch.save(
        {"epoch": 3, "arch": "test_resnet", "args": argparse.Namespace(lr=0.1), "optimizer": optimizer,
         "state_dict": wrong, "state_dict_ema": averaged}, file,
    )  # fmt: skip


def as_torchvision_checkpoint(network: nn.Module, file: Path) -> None:
    """What torchvision's references write: "model_ema" is the state of an AveragedModel, with its counter."""
    wrong = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save({"model": wrong, "model_ema": AveragedModel(network).state_dict(), "args": argparse.Namespace()}, file)


def as_compiled_ddp(network: nn.Module, file: Path) -> None:
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}, file)


def as_lightning_checkpoint(network: nn.Module, file: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.weight": torch.ones(10)}, "state_dict_ema": None}, file)


def as_half_precision(network: nn.Module, file: Path) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    torch.save({"model": {name: t.half() if t.dim() > 1 else t for name, t in network.state_dict().items()}}, file)


WRITERS = {
    "a.safetensors": (as_safetensors, "a.safetensors", ()),
    "b.pth": (as_timm_checkpoint, "b.pth (state_dict_ema), prefix module. left out", ()),
    "c.pth": (as_torchvision_checkpoint, "c.pth (model_ema), prefix module. left out", ("n_averaged",)),
    "d.pt": (as_compiled_ddp, "d.pt, prefix module._orig_mod. left out", ()),
    "e.pt": (as_lightning_checkpoint, "e.pt (state_dict), prefix model. left out", ("criterion.weight",)),
    "f.bin": (as_half_precision, "f.bin (model)", ()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_as_others_write_them_give_every_tensor_and_say_how(tmp_path: Path, name: str) -> None:
    write, origin, unused = WRITERS[name]
    other = other_resnet()
    write(other, tmp_path / name)
    built = begun(tmp_path, name)
    assert same_state(built.network, other)
    tensors, parameters = len(other.state_dict()), sum(p.numel() for p in other.parameters())
    count = f"pretrained: {tensors} of {tensors} tensors, {parameters:,} of {parameters:,} parameters, from {origin}"
    told = [f"  there, but not in this network: {', '.join(unused)}"] if unused else []
    assert list(built.changes) == [count, *told]


def test_a_head_of_other_classes_is_left_out_with_both_shapes_and_stays_as_initialized(tmp_path: Path) -> None:
    other = other_resnet(classes=7)
    as_safetensors(other, tmp_path / "seven.safetensors")
    built, fresh = begun(tmp_path, "seven.safetensors"), begun(tmp_path, "null")
    assert built.began is not None
    head = ("fc.weight", "fc.bias")
    assert {(one.name, one.there, one.here) for one in built.began.other_shape} == {
        ("fc.weight", (7, 96), (10, 96)),
        ("fc.bias", (7,), (10,)),
    }
    mine, its, initialized = (n.state_dict() for n in (built.network, other, fresh.network))
    assert all(torch.equal(mine[name], (initialized if name in head else its)[name]) for name in mine)
    assert "fc.weight (7, 96) there, (10, 96) here" in built.changes[1]


def test_a_tensor_that_is_not_there_stays_and_is_named(tmp_path: Path) -> None:
    other = other_resnet()
    state = other.state_dict()
    del state["conv1.0.weight"]
    save_file({**state, "extra.weight": torch.ones(2, 2)}, tmp_path / "most.safetensors")
    built = begun(tmp_path, "most.safetensors")
    assert built.began is not None
    assert (built.began.missing, built.began.unused) == (("conv1.0.weight",), ("extra.weight",))
    assert torch.equal(
        built.network.get_parameter("conv1.0.weight"), begun(tmp_path, "null").network.get_parameter("conv1.0.weight")
    )
    assert built.changes[1] == "  not there, so as they were: conv1.0.weight"
    values = json.loads(json.dumps(built.began.to_json()))
    assert values["parameters"] - values["parameters_loaded"] == state_size(other, "conv1.0.weight")


def state_size(network: nn.Module, name: str) -> int:
    return network.get_parameter(name).numel()


def test_weights_of_another_model_are_refused_with_names_of_both(tmp_path: Path) -> None:
    save_file(torchvision.models.squeezenet1_1(num_classes=10).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="no weight has the same name") as refused:
        begun(tmp_path, "other.safetensors")
    assert "There: classifier.1.weight, features.0.weight" in str(refused.value)
    assert "Here: conv1.0.weight, conv1.1.weight" not in str(refused.value)  # 1.1 is a norm
    assert "Here: conv1.0.weight, conv1.3.weight" in str(refused.value)


def test_a_bias_that_happens_to_fit_is_no_match() -> None:
    narrow, wide = (nn.Sequential(nn.Linear(3, width), nn.Linear(width, 10)) for width in (4, 5))
    with pytest.raises(
        TrainingError, match=r"not one weight has the same shape: 0.weight \(5, 3\) there, \(4, 3\) here"
    ):
        load_weights(narrow, Weights(dict(wide.state_dict()), "wide.pt"))


class Anything:
    """A Python object: to load it is to import and run what it names."""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"state_dict": {"w": torch.ones(2)}, "extra": Anything()},
            "has Python objects beside its tensors, and to load those is to run code",
        ),
        ({"state_dict": {"w": "no tensor"}}, "has no tensors by name"),
        ([torch.ones(2)], "has no tensors by name"),
        (torch.ones(2), "has no tensors by name"),
    ],
)
def test_what_holds_no_weights_or_more_than_weights_is_refused(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(TrainingError, match=told):
        begun(tmp_path, "file.pt")


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
def test_a_damaged_file_and_one_that_is_gone_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(TrainingError, match=f"{name} cannot be read"):
        begun(tmp_path, name)
    (tmp_path / name).unlink()
    with pytest.raises(TrainingError, match="is not there any more: put it back"):
        begun(tmp_path, name)


def test_timms_weights_come_through_timm_and_its_classes_are_left_out(tmp_path: Path) -> None:
    other = other_resnet(classes=7)
    as_safetensors(other, tmp_path / "hub.safetensors")
    overlay = {"file": str(tmp_path / "hub.safetensors"), "num_classes": 7}
    for name in ("timm", "timm:test_resnet.r160_in1k"):
        built = begun(tmp_path, name, pretrained_cfg_overlay=overlay)
        assert built.began is not None
        assert same_state(built.network, _with_head_of(other, built.network))
        assert [one.name for one in built.began.other_shape] == ["fc.weight", "fc.bias"]
    assert built.changes[0].endswith("from timm's weights of test_resnet.r160_in1k")


def _with_head_of(other: nn.Module, network: nn.Module) -> nn.Module:
    copy = other_resnet()
    head = {name: network.state_dict()[name] for name in ("fc.weight", "fc.bias")}
    copy.load_state_dict({**other.state_dict(), **head})
    return copy


def test_what_timm_cannot_give_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="timm has no model 'resnet_none'"):
        begun(tmp_path, "timm:resnet_none")
    absent = {"file": "", "url": "", "hf_hub_id": ""}
    with pytest.raises(
        TrainingError, match=r"timm could not give its weights of test_resnet: .*write model.pretrained: FILE"
    ):
        begun(tmp_path, "timm", pretrained_cfg_overlay=absent)


def test_frozen_batch_norm_takes_the_statistics_of_the_weights(tmp_path: Path) -> None:
    other = other_resnet()
    as_safetensors(other, tmp_path / "a.safetensors")
    job = job_of(tmp_path, "a.safetensors", "model.batch_norm=frozen")
    recipe = job.recipe
    built = build_network(recipe, 10, weights_to_begin_with(job))
    assert same_state(built.network, other)
    assert build_network(recipe, 10).changes[0].startswith("batch norm: ")  # resumed: statistics come with a checkpoint
    without = recipe.model_copy(update={"model": recipe.model.model_copy(update={"pretrained": None})})
    with pytest.raises(TrainingError, match=r"Load trained weights \(model.pretrained\)"):
        build_network(without, 10)


def test_what_is_left_out_begins_as_new_though_it_would_fit() -> None:
    network, source = other_resnet(), other_resnet()
    new = [torch.nn.init.normal_(network.get_parameter(name)).clone() for name in ("fc.weight", "fc.bias")]
    began = load_weights(network, Weights(source.state_dict(), "there"), leave_out=("fc.*",))
    assert began.left_out == ("fc.weight", "fc.bias")
    assert [torch.equal(network.get_parameter(name), old) for name, old in zip(began.left_out, new, strict=True)] == [
        True, True,
    ]  # fmt: skip
    assert same_state(network, source, leaving_out=began.left_out)
    assert "  left out, as leave_out says: fc.weight, fc.bias" in began.lines()
    with pytest.raises(
        TrainingError, match=r"leave_out: 'fc.wight' fits nothing of the network. Did you mean fc.weight"
    ):
        load_weights(network, Weights(source.state_dict(), "there"), leave_out=("fc.wight",))
