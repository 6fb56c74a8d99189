"""timm's arguments as a recipe: what each becomes, the learning rate and the schedule, and that none is lost."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.recipe import Recipe
from megabatch.launcher.cli import app
from megabatch.launcher.timm_import import optimizer
from megabatch.launcher.timm_import.argument import Argument
from megabatch.launcher.timm_import.arguments import ARGUMENTS
from megabatch.launcher.timm_import.read import read_command
from megabatch.launcher.timm_import.recipe import Imported, recipe

A1 = (
    "./distributed_train.sh 4 /data/imagenet --model resnet50 --aa rand-m7-mstd0.5-inc1 --mixup .2 --cutmix 1 --aug-repeats 3 "
    "--bce-loss -b 512 --amp -j 8 --opt lamb --lr 5e-3 --sched cosine --smoothing 0.1 --warmup-epochs 5 --weight-decay .01 "
    "--epochs 600 --drop-path 0.05 --crop-pct 0.95 --warmup-prefix"
)
DEIT = (
    "torchrun --nproc-per-node 8 --nnodes=2 train.py --data-dir /d --model deit_small_patch16_224 --pretrained --opt adamw "
    "--opt-betas 0.9 0.95 --opt-eps 1e-7 --amp --amp-dtype bfloat16 --clip-grad 1 --layer-decay 0.75 --model-ema --reprob 0.25 "
    "--log-wandb --torchcompile --torchcompile-mode max-autotune --train-interpolation bilinear"
)
SHARDS = "train.py /shards --dataset wds/in1k --val-split '' --model efficientnet_b0 --opt rmsproptf --sched step --bn-eps 1e-3"


def imported(command: str) -> Imported:
    return recipe(*read_command(command))


def loaded(command: str, folder: Path) -> Recipe:
    """Return the recipe that the printed text stands for."""
    done = CliRunner().invoke(app, ["config", "from-timm", command])
    assert done.exit_code == 0, done.output
    (folder / "x.yaml").write_text(done.stdout)
    return load(str(folder / "x.yaml"), "laptop").recipe


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (A1, {"name": "resnet50", "epochs": 202, "batch.global_batch": 2048, "batch.micro_batch": 512, "data.repeats": 3,
              "optimizer.name": "lamb", "optimizer.base_learning_rate": 0.005, "optimizer.scaling": "none",
              "regularization.clip_norm": 1.0, "regularization.stochastic_depth": 0.05, "precision.name": "fp16",
              "loss.name": "binary_cross_entropy", "schedule.warmup": 1.6667, "data.evaluation_transforms.0.size": 235,
              "data.train_transforms.2.magnitude": 21, "data.path": "data/imagenet"}),
        (DEIT, {"batch.global_batch": 2048, "optimizer.beta2": 0.95, "optimizer.epsilon": 1e-7, "precision.name": "bf16",
                "optimizer.scaling": "sqrt", "optimizer.layer_decay": 0.75, "averaging.decay": 0.9998, "epochs": 300,
                "model.pretrained.source": "timm", "model.compile.mode": "max-autotune", "regularization.clip_norm": 1.0,
                "data.batch_transforms.0.probability": 0.25, "tracking.wandb.project": "uncategorized"}),
        (SHARDS, {"data.path": "/shards", "data.validation_split": None, "optimizer.name": "timm/rmsproptf",
                  "optimizer.options": {"momentum": 0.9}, "model.options": {"bn_eps": 1e-3}, "schedule.every": 90.0,
                  "batch.global_batch": 128, "precision.tf32": True}),
    ],
)  # fmt: skip
def test_a_printed_recipe_loads_and_says_what_the_command_said(
    command: str, wanted: dict[str, Any], tmp_path: Path
) -> None:
    found: Any = loaded(command, tmp_path).model_dump()
    for path, value in wanted.items():
        part = found
        for key in path.split("."):
            part = part[int(key) if key.isdecimal() else key]
        assert part == value, path


@pytest.mark.parametrize(
    ("command", "global_batch", "peak"),
    [
        ("train.py", 128, 0.05),  # sgd: linear from 0.1 at 256
        ("train.py --opt adamw", 128, 0.1 * 0.5**0.5),  # timm takes the square root for names with `ada` in them
        ("train.py --lr 0.3 -b 64", 64, 0.3),
        ("torchrun --nproc_per_node=8 train.py -b 64 --grad-accum-steps 4", 2048, 0.8),
        ("torchrun --nproc_per_node 8 --nnodes 2 train.py -b 64 --lr-base 0.5 --lr-base-size 1024", 1024, 0.5),
        ("python -m torch.distributed.launch --nproc_per_node=2 train.py --lr-base-scale sqrt", 256, 0.1),
        ("sh distributed_train.sh 16 /d -b 128 --opt lars --lr-base-scale linear", 2048, 0.8),
        ("--batch-size 32 --lr 0", 32, 0.0125),  # timm takes 0 for not given
    ],
)
def test_batch_and_peak_learning_rate_are_those_of_train_py(command: str, global_batch: int, peak: float) -> None:
    found = Recipe.model_validate(_tuples(imported(command).values))
    assert found.batch.global_batch == global_batch
    assert found.optimizer.peak_learning_rate(global_batch) == pytest.approx(peak, rel=1e-12)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@pytest.mark.parametrize(
    "arguments",
    [
        "--sched cosine --warmup-prefix --min-lr 1e-4",
        "--sched cosine --warmup-epochs 0",
        "--sched poly --decay-rate 2 --warmup-prefix --min-lr 0.01",
        "--sched step --decay-epochs 4 --decay-rate 0.5",
        "--sched step --decay-epochs 4 --decay-rate 0.5 --warmup-prefix",
        "--sched multistep --decay-milestones 6 9 --decay-rate 0.2",
        "--sched multistep --decay-milestones 6 9 --decay-rate 0.2 --warmup-prefix",
        "--sched cosine --lr-cycle-limit 3 --lr-cycle-decay 1 --warmup-epochs 0",
    ],
)
def test_the_rate_at_every_epoch_is_that_of_timms_scheduler(arguments: str) -> None:
    import torch
    from timm.scheduler import create_scheduler_v2, scheduler_kwargs

    command = f"train.py --epochs 12 --lr 0.4 --warmup-lr 0.01 --warmup-epochs 3 {arguments}"
    values, _ = read_command(command)
    kwargs = scheduler_kwargs(type("Arguments", (), values.values))
    theirs, epochs = create_scheduler_v2(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4), **kwargs)
    found = Recipe.model_validate(_tuples(imported(command).values))
    assert found.epochs == epochs
    schedule = found.schedule.in_epochs(float)
    ours = [0.4 * schedule.factor(epoch, epochs) for epoch in range(epochs)]
    assert ours == pytest.approx([theirs._get_lr(epoch)[0] for epoch in range(epochs)], rel=1e-5, abs=1e-9)


def test_what_optimizers_take_is_what_timms_registry_says() -> None:
    from timm.optim._optim_factory import default_registry

    infos = default_registry._optimizers
    assert {name for name, info in infos.items() if info.has_momentum} == optimizer._WITH_MOMENTUM
    assert {name for name, info in infos.items() if not info.has_eps} == optimizer._WITHOUT_EPSILON
    assert {name for name, info in infos.items() if not info.has_betas} == optimizer._WITHOUT_BETAS


def words_of(argument: Argument) -> st.SearchStrategy[list[str]]:
    """Return values that train.py would take, as words of a command."""
    texts = {
        "sched": ["step", "multistep", "plateau", "poly", "tanh", "none"], "opt": ["lamb", "adan", "larc"],
        "clip_mode": ["value", "agc"], "amp_dtype": ["bfloat16"], "aa": ["rand-m5", "v0", "augmix-m3"],
        "model_dtype": ["float16", "bfloat16", "float32"], "eval_metric": ["top5", "loss"],
        "dataset": ["wds/x", "hfds/y"], "experiment": ["mine"], "data": ["folder"], "initial_checkpoint": ["w.safetensors", "https://a/b.pt"],
    }  # fmt: skip
    whole = {"validation_batch_size": ["5"], "img_size": ["48", "64"], "input_size": ["48", "64"]}
    one = {
        "int": st.sampled_from(whole.get(argument.dest, ["2", "3", "7"])),
        "float": st.sampled_from(["0.15", "0.35", "0.75"]),
        "text": st.sampled_from(texts.get(argument.dest, ["something", "other"])),
        "pairs": st.sampled_from(["a=1", "b=c"]),
    }
    if argument.kind == "switch":
        return st.just([])
    lengths = {
        "mean": (3, 3),
        "std": (3, 3),
        "scale": (2, 2),
        "ratio": (2, 2),
        "opt_betas": (2, 2),
        "input_size": (3, 3),
    }
    least, most = lengths.get(argument.dest, (1, 2) if argument.many == "+" else (1, 1))
    words = st.lists(one[argument.kind], min_size=least, max_size=most)
    return words.map(sorted) if argument.dest in ("scale", "ratio") else words


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, list[str]]:
    """Return some arguments of train.py by flag, each with words that differ from its default."""
    names = sorted(name for name, argument in ARGUMENTS.items() if not argument.older)
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=7, unique=True))
    found = {ARGUMENTS[name].shown: draw(words_of(ARGUMENTS[name])) for name in chosen}
    if "--aug-repeats" in found:
        found["--aug-repeats"] = ["3"]
    return found


def command(flags: dict[str, list[str]]) -> str:
    positional = flags.get("data", [])
    words = [word for flag, values in flags.items() if flag != "data" for word in (flag, *values)]
    return shlex.join(["torchrun", "--nproc_per_node=2", "train.py", *positional, *words])


@settings(max_examples=150, deadline=None)
@given(arguments())
def test_no_argument_is_dropped_without_a_word(flags: dict[str, list[str]]) -> None:
    """Each one is in a comment, or the recipe is another one without it."""
    try:
        whole = imported(command(flags))
    except ConfigError:
        return
    for flag in flags:
        if any(re.match(rf"{flag}[ :]", line) for line in whole.told):
            continue
        without = imported(command({other: words for other, words in flags.items() if other != flag}))
        assert without != whole, f"{flag} is dropped: {command(flags)}"


def test_every_argument_says_what_becomes_of_it() -> None:
    unsaid = [argument.shown for argument in ARGUMENTS.values() if not argument.key and not _told(argument)]
    assert unsaid == []
    assert all(argument.key or argument.why for argument in ARGUMENTS.values())


def _told(argument: Argument) -> bool:
    words = [] if argument.kind == "switch" else ["a=1"] if argument.kind == "pairs" else ["3"]
    told = imported(shlex.join(["train.py", argument.shown, *words * (3 if argument.many == 3 else 1)])).told
    return any(line.startswith(argument.shown) and argument.why.split(":")[0] in line for line in told)


def test_a_saved_file_says_the_same_as_the_command(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    values, _ = read_command(DEIT)
    with (tmp_path / "args.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(values.values, file)
    whole = ["config", "from-timm", "--file", str(tmp_path / "args.yaml"), "--ranks", "16"]
    done = CliRunner().invoke(app, whole)
    assert done.exit_code == 0, done.output
    (tmp_path / "y.yaml").write_text(done.stdout)
    assert load(str(tmp_path / "y.yaml"), "laptop").recipe == loaded(DEIT, tmp_path)
    as_defaults = f"torchrun --nproc-per-node 16 train.py -c {tmp_path / 'args.yaml'} --epochs 7"
    assert loaded(as_defaults, tmp_path) == loaded(f"{DEIT} --epochs 7", tmp_path)


def test_keyword_arguments_are_what_yaml_can_say(tmp_path: Path) -> None:
    found = loaded(
        "train.py --model-kwargs a=1 b=x c=(1,2) d={1} e=1j f=None --opt lion --opt-kwargs caution=True", tmp_path
    )
    assert found.model.options == {"a": 1, "b": "x", "c": (1, 2), "d": "{1}", "e": "1j", "f": None}
    assert found.optimizer.model_dump()["options"] == {"caution": True}


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        ("--pretrained", "timm"), ("--pretrained --pretrained-path a.pt", "a.pt"), ("--pretrained-path a.pt", None),
        ("--pretrained --initial-checkpoint b.pt", "b.pt"), ("--initial-checkpoint b.pt --pretrained-path a.pt", "b.pt"),
    ],
)  # fmt: skip
def test_the_weights_are_those_that_train_py_ends_up_with(arguments: str, source: str | None) -> None:
    """Its checkpoint is read after the pretrained weights, and --pretrained-path only beside --pretrained."""
    pretrained = Recipe.model_validate(_tuples(imported(f"train.py {arguments}").values)).model.pretrained
    assert (pretrained and pretrained.source) == source


def test_a_comment_cannot_become_a_key(tmp_path: Path) -> None:
    hostile = "train.py --lr 0.1 --output 'x\nepochs: 9' --wandb-tags 'a\rname: b' --experiment 'e\nseed: 3'"
    found = loaded(hostile, tmp_path)
    assert (found.epochs, found.seed, found.name) == (300, 42, "e-seed--3")
