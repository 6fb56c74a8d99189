"""What DeepSpeed cannot do as the other engines do it, or what a JSON of its own would change."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.deepspeed_json import AUTO, contradictions, not_taken
from megabatch.configs.engines import DeepSpeed
from megabatch.configs.optimizers import Lamb, Lars
from megabatch.configs.precision import Fp8, Fp16, Fp64
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal

# Each element of a parameter is updated from its own gradient and state, so that it does not matter where a shard ends.
_ELEMENT_BY_ELEMENT = {
    "sgd", "adam", "adamw", "rmsprop", "torch/SGD", "torch/Adam", "torch/AdamW", "torch/NAdam", "torch/RAdam",
    "torch/Adamax", "torch/Adadelta", "torch/RMSprop", "torch/Rprop", "torch/ASGD",
}  # fmt: skip
_OTHER_ENGINE = "engine=ddp"


def _stage(recipe: Recipe) -> int | None:
    """Return the stage of ZeRO, or None for another engine."""
    return recipe.engine.stage if isinstance(recipe.engine, DeepSpeed) else None


def _shown(recipe: Recipe) -> str:
    return f"engine=deepspeed with zero_stage {_stage(recipe)}"


def _contradicted(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    yield from contradictions(recipe, cluster.num_ranks)


def _left_out(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    yield from not_taken(recipe)


def _float64(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) is not None and isinstance(recipe.precision, Fp64):
        yield "precision=fp64 and engine=deepspeed"


def _thawed(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) is not None and any(rule.frozen_until is not None for rule in recipe.optimizer.groups):
        yield "optimizer.groups has frozen_until, and engine=deepspeed"


def _scaled_shards(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) and isinstance(recipe.precision, Fp16):
        yield f"precision=fp16 and {_shown(recipe)}"


def _layers_in_shards(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) and isinstance(recipe.optimizer, Lars | Lamb):
        yield f"optimizer={recipe.optimizer.name} and {_shown(recipe)}"


def _unknown_in_shards(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    name, layer_wise = recipe.optimizer.name, isinstance(recipe.optimizer, Lars | Lamb)
    if _stage(recipe) and not layer_wise and name not in _ELEMENT_BY_ELEMENT and not _is_adagrad(name):
        yield f"optimizer={name} and {_shown(recipe)}"


def _is_adagrad(name: str) -> bool:
    return name.rpartition("/")[2].lower() == "adagrad"


def _adagrad(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) and _is_adagrad(recipe.optimizer.name):
        yield f"optimizer={recipe.optimizer.name} and {_shown(recipe)}"


def _rows_in_shards(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) and recipe.regularization.clip_adaptive is not None:
        yield f"regularization.clip_adaptive and {_shown(recipe)}"


def _own_gradient(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) is not None and recipe.tracking.noise_scale:
        yield "tracking.noise_scale and engine=deepspeed"


def _other_code(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) is not None:
        if recipe.model.compile is not None:
            yield "model.compile and engine=deepspeed"
        if isinstance(recipe.precision, Fp8):
            yield "precision=fp8 and engine=deepspeed"


def _flat_layout(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) and recipe.model.channels_last:
        yield f"model.channels_last and {_shown(recipe)}"


def _average_of_shards(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if _stage(recipe) == 3 and recipe.averaging is not None:
        yield f"averaging={recipe.averaging.name} and {_shown(recipe)}"


def _another_count(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, DeepSpeed) and recipe.batch.ramp:
        for key in ("train_batch_size", "gradient_accumulation_steps"):
            if recipe.engine.config.get(key, AUTO) != AUTO:
                yield f"{recipe.engine.shown_config}: {key}, and batch.ramp"


DEEPSPEED: tuple[Refusal, ...] = (
    Refusal(
        "A JSON of DeepSpeed's that contradicts the recipe",
        "the recipe says what is trained",
        lambda r, c, d: 'write "auto" there, or leave it out',
        _contradicted,
    ),
    Refusal(
        "Keys of DeepSpeed's JSON that change what is trained, or that nothing here uses",
        "with it the training would not be the one of the recipe, or it would be ignored",
        lambda r, c, d: "leave it out; docs/engines.md lists the keys that are taken",
        _left_out,
    ),
    Refusal(
        "A batch size in DeepSpeed's JSON, and a batch that grows",
        "the JSON has one batch for the whole training",
        lambda r, c, d: 'write "auto" there, or leave it out',
        _another_count,
    ),
    Refusal(
        "float64 with DeepSpeed",
        "it sums no float64 gradients over the ranks, and from stage 1 on keeps the weights to update in float32",
        lambda r, c, d: f"precision=fp32, or {_OTHER_ENGINE}",
        _float64,
    ),
    Refusal(
        "Parameters frozen for a while with DeepSpeed",
        "it steps with all gradients that it has summed, so those of frozen ones cannot be held back",
        lambda r, c, d: f"frozen: true, or {_OTHER_ENGINE}",
        _thawed,
    ),
    Refusal(
        "float16 with ZeRO stages 1 to 3",
        "an overflow in the gradient of one rank's shard would not be known to the others",
        lambda r, c, d: f"precision=bf16, engine.zero_stage=0, or {_OTHER_ENGINE}",
        _scaled_shards,
    ),
    Refusal(
        "LARS and LAMB with ZeRO stages 1 to 3",
        "a shard has pieces of several layers, and its norm is that of none of them: wrong trust ratios",
        lambda r, c, d: f"engine=fsdp, which sums the norms over the ranks, engine.zero_stage=0, or {_OTHER_ENGINE}",
        _layers_in_shards,
    ),
    Refusal(
        "An optimizer that is not known to work element by element, with ZeRO stages 1 to 3",
        "it sees flat shards with pieces of several parameters instead of their matrices",
        lambda r, c, d: f"engine.zero_stage=0, {_OTHER_ENGINE}, or one of {', '.join(sorted(_ELEMENT_BY_ELEMENT))}",
        _unknown_in_shards,
    ),
    Refusal(
        "Adagrad with ZeRO stages 1 to 3",
        "DeepSpeed makes an Adagrad of its own there, without the groups of the recipe",
        lambda r, c, d: f"engine.zero_stage=0, or {_OTHER_ENGINE}",
        _adagrad,
    ),
    Refusal(
        "Adaptive clipping with ZeRO stages 1 to 3",
        "it needs the norm of each row, and a shard has pieces of rows",
        lambda r, c, d: f"regularization.clip_norm, engine.zero_stage=0, or {_OTHER_ENGINE}",
        _rows_in_shards,
    ),
    Refusal(
        "The noise scale with DeepSpeed",
        "a rank's own gradient is gone once it is summed over the ranks, which DeepSpeed does in the backward pass",
        lambda r, c, d: f"tracking.noise_scale=false, or {_OTHER_ENGINE}",
        _own_gradient,
    ),
    Refusal(
        "Compiling or float8 products with DeepSpeed",
        "neither was ever tried together with its hooks",
        lambda r, c, d: f"leave it out, or {_OTHER_ENGINE}",
        _other_code,
    ),
    Refusal(
        "channels_last with ZeRO stages 1 to 3",
        "weights are pieces of a flat line there, in the usual order",
        lambda r, c, d: f"model.channels_last=false, engine.zero_stage=0, or {_OTHER_ENGINE}",
        _flat_layout,
    ),
    Refusal(
        "Averaged weights with ZeRO stage 3",
        "no rank has the whole weights between the steps",
        lambda r, c, d: "averaging=null, engine.zero_stage=2, or engine=ddp",
        _average_of_shards,
    ),
)
