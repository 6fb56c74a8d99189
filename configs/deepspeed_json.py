"""DeepSpeed's JSON: what it is given for a recipe, and what in a user's own does not go with the recipe.

A recipe says what is trained, DeepSpeed how it is shared out. So keys of a user's JSON that say how go on unchanged;
those that say what must agree with the recipe ("auto" always does); and those that would change it are not taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from megabatch.configs.engines import DeepSpeed
from megabatch.configs.recipe import Recipe

Json = dict[str, Any]  # Any: JSON

AUTO = "auto"
_ZERO = "zero_optimization"
_TOP_LEVEL = {
    "communication_data_type", "comms_logger", "csv_monitor", "dump_state", "flops_profiler", "log_level",
    "memory_breakdown", "monitor_config", "gradient_predivide_factor", "prescale_gradients", "steps_per_print",
    "tensorboard", "wall_clock_breakdown", "wandb", "comet", _ZERO,
}  # fmt: skip
_OF_ZERO = {
    "allgather_bucket_size", "allgather_partitions", "contiguous_gradients", "enable_sanity_checks",
    "log_trace_cache_warnings", "memory_efficient_linear", "offload_optimizer", "overlap_comm", "parameter_alignment",
    "reduce_bucket_size", "reduce_scatter", "round_robin_gradients", "stage3_allgather_sequential",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_multi_rank_bucket_allreduce",
}  # fmt: skip


class _Agreed(NamedTuple):
    """A key of the JSON whose value follows from the recipe."""

    value: Any
    recipe_key: str


def deepspeed_json(recipe: Recipe) -> Json:
    """Return what `deepspeed.initialize` gets: the user's keys as they are, and those that follow from the recipe.

    Gradients are clipped and counted over micro-batches by the step, as for every engine, so DeepSpeed does neither.
    """
    engine = recipe.engine
    assert isinstance(engine, DeepSpeed)
    config = json.loads(json.dumps(engine.config))  # lists, which are tuples in a frozen recipe
    given = {key: value for key, value in config.items() if key in _TOP_LEVEL and value != AUTO}
    zero = {key: value for key, value in given.pop(_ZERO, {}).items() if value != AUTO}
    zero |= {**engine.zero_options, "stage": engine.stage}
    if engine.stage in (1, 2) and "offload_optimizer" not in zero:
        zero["compute_grad_norm"] = False  # the step takes it where it is asked for
    return {
        **given,
        "train_micro_batch_size_per_gpu": recipe.batch.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # its own default is 1
        "zero_allow_untested_optimizer": True,  # which ones are safe, the plan decides
        "zero_force_ds_cpu_optimizer": False,
        _ZERO: zero,
    }


def contradictions(recipe: Recipe, num_ranks: int) -> Iterator[str]:
    """Yield where the user's JSON says something else than the recipe: both places and both values."""
    engine = recipe.engine
    if not isinstance(engine, DeepSpeed):
        return
    agreed = _agreed(recipe, num_ranks)
    for path, value in _leaves(engine.config):
        if path in agreed and value not in (AUTO, agreed[path].value):
            expected, key = agreed[path]
            yield f"{engine.shown_config}: {path}={_shown(value)}, and {key} makes it {_shown(expected)}"
    for section, key in (("optimizer", "optimizer"), ("scheduler", "schedule")):
        if engine.config.get(section, AUTO) != AUTO:
            yield f"{engine.shown_config}: {section}, and the recipe has {key}"
    for name in ("fp16", "bf16", "bfloat16", "amp", "torch_autocast"):
        if _enabled(engine.config.get(name, AUTO)):
            yield f"{engine.shown_config}: {name}.enabled, and the recipe has precision={recipe.precision.name}"


def not_taken(recipe: Recipe) -> Iterator[str]:
    """Yield the keys of the user's JSON that are not known to leave the training as it is."""
    engine = recipe.engine
    if not isinstance(engine, DeepSpeed):
        return
    elsewhere = {path.partition(".")[0] for path in _agreed(recipe, 1)} - {_ZERO}
    elsewhere |= {"optimizer", "scheduler", "fp16", "bf16", "bfloat16", "amp", "torch_autocast"}
    for key in engine.config:
        if key not in _TOP_LEVEL | elsewhere:
            yield f"{engine.shown_config}: {key}"
    zero = engine.config.get(_ZERO, {})
    for key, value in zero.items():
        if key not in _OF_ZERO | {"stage"}:
            yield f"{engine.shown_config}: {_ZERO}.{key}"
        elif key == "offload_optimizer" and isinstance(value, dict) and value.get("device") not in ("none", "cpu"):
            yield f"{engine.shown_config}: {_ZERO}.{key}.device={value.get('device')}"


def _agreed(recipe: Recipe, num_ranks: int) -> dict[str, _Agreed]:
    batch, engine = recipe.batch, recipe.engine
    assert isinstance(engine, DeepSpeed)
    micro_batches = -(-batch.global_batch // batch.micro_batch)
    fixed = {
        "train_batch_size": _Agreed(batch.global_batch, "batch.global_batch"),
        "train_micro_batch_size_per_gpu": _Agreed(batch.micro_batch, "batch.micro_batch"),
        "gradient_accumulation_steps": _Agreed(-(-micro_batches // num_ranks), "batch, shared by the ranks,"),
        "gradient_clipping": _Agreed(recipe.regularization.clip_norm or 0, "regularization.clip_norm"),
        "gradient_allreduce_op": _Agreed("mean", "batch.global_batch"),
        "zero_allow_untested_optimizer": _Agreed(True, "optimizer"),
        "zero_force_ds_cpu_optimizer": _Agreed(False, "optimizer"),
        f"{_ZERO}.stage": _Agreed(engine.stage, "engine.zero_stage"),
    }
    options = {f"{_ZERO}.{name}": _Agreed(value, f"engine.{name}") for name, value in engine.zero_options.items()}
    offload = engine.offload_optimizer
    if offload is not None:
        options[f"{_ZERO}.offload_optimizer"] = _Agreed({"device": offload}, "engine.offload_optimizer")
    return fixed | options


def _leaves(config: Json) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key == _ZERO:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in value.items())
        else:
            yield key, value


def _enabled(section: Any) -> bool:  # Any: JSON
    """Return whether a section of a number format switches it on; DeepSpeed takes it for off where it says nothing."""
    return isinstance(section, dict) and section.get("enabled", False) not in (False, AUTO)


def _shown(value: Any) -> str:  # Any: JSON
    return str(value).lower() if isinstance(value, bool) else str(value)
