"""train.py's optimizer, learning rate, clipping and precision as sections of a recipe."""

from __future__ import annotations

from megabatch.configs.errors import ConfigError, Problem
from megabatch.launcher.timm_import.values import Section, Values

_OWN: dict[str, Section] = {  # names that have the same formula here, and what timm has in them by default
    "sgd": {"name": "sgd", "nesterov": True},
    "nesterov": {"name": "sgd", "nesterov": True},
    "momentum": {"name": "sgd", "nesterov": False},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
    "adagrad": {"name": "adagrad", "epsilon": 1e-8},
    "rmsprop": {"name": "rmsprop", "smoothing": 0.9},
    "lars": {"name": "lars", "epsilon": 1e-8},
    "nlars": {"name": "lars", "epsilon": 1e-8, "nesterov": True},
    "lamb": {"name": "lamb"},
}
_WITH_MOMENTUM = {
    "adafactorbv", "adafactorbvc", "adamuon", "bnbsgd", "bnbsgd8bit", "cadafactorbv", "cadafactorbvc",
    "crmsproptf", "csgdc", "csgdp", "csgdw", "fusedsgd", "kron", "kronc", "kronw", "larc", "lars", "madgrad",
    "madgradw", "momentum", "muon", "nadamuon", "nesterov", "nesterovw", "nlarc", "nlars", "nmuon", "rmsprop",
    "rmsproptf", "rmsproptfc", "rmsproptfw", "sgd", "sgdc", "sgdp", "sgdw",
}  # fmt: skip
_WITHOUT_EPSILON = {
    "bnblion", "bnblion8bit", "bnbsgd", "bnbsgd8bit", "clion", "clionc", "csgdc", "csgdw", "fusedsgd", "kron",
    "kronc", "kronw", "lion", "lionc", "momentum", "nesterov", "nesterovw", "sgd", "sgdc", "sgdw",
}  # fmt: skip
_WITHOUT_BETAS = {
    "adadelta", "adafactorbv", "adafactorbvc", "adagrad", "bnbsgd", "bnbsgd8bit", "cadafactorbv",
    "cadafactorbvc", "crmsproptf", "csgdc", "csgdp", "csgdw", "fusedsgd", "kron", "kronc", "kronw", "larc",
    "lars", "madgrad", "madgradw", "momentum", "nesterov", "nesterovw", "nlarc", "nlars", "rmsprop",
    "rmsproptf", "rmsproptfc", "rmsproptfw", "sgd", "sgdc", "sgdp", "sgdw",
}  # fmt: skip
_LAMB_CLIPS_AT = 1.0  # timm's Lamb has max_grad_norm=1.0


def optimizer(values: Values, global_batch: int) -> Section:
    """Return the optimizer with timm's defaults written out, and the learning rate as the command has it."""
    name = _name(values)
    pairs = dict(values.take("opt_kwargs"))
    found: Section = dict(_OWN[name]) if name in _OWN and not pairs else {"name": f"timm/{name}"}
    found |= _learning_rate(values, global_batch)
    found["weight_decay"] = values.take("weight_decay")
    own = not found["name"].startswith("timm/")
    options = pairs if not own else found
    if name in _WITH_MOMENTUM:
        options.setdefault("momentum", values.take("momentum"))
    if values.look("opt_eps") is not None and name not in _WITHOUT_EPSILON:
        options["epsilon" if own else "eps"] = values.take("opt_eps")
    if values.look("opt_betas") is not None and name not in _WITHOUT_BETAS:
        _betas(values, options, own)
    if values.look("layer_decay") is not None:
        found["layer_decay"] = values.take("layer_decay")
    if not own:
        found["options"] = options
    if found["name"] in ("lars", "lamb") and not found["weight_decay"]:
        values.note("weight_decay", "timm's layer-wise optimizers adapt nothing without it; those here do")
    return found


def peak(section: Section, global_batch: int) -> float:
    """Return the learning rate after warmup."""
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[section["scaling"]]
    return float(section["base_learning_rate"] * (global_batch / section["base_batch"]) ** power)


def clipping(values: Values, name: str) -> Section:
    """Return how gradients are clipped beside the optimizer `name`: timm's LAMB clips, the one here does not."""
    limit = values.take("clip_grad")
    if name == "lamb":
        if not limit:
            return {"clip_norm": _LAMB_CLIPS_AT}
        if values.look("clip_mode") == "norm":
            return {"clip_norm": min(limit, _LAMB_CLIPS_AT)}
        values.note(
            "clip_mode", "gradients are clipped in one way, and timm's LAMB also clips the norm at 1: left out here"
        )
    if not limit:
        return {}
    keys = {"norm": "clip_norm", "value": "clip_value", "agc": "clip_adaptive"}
    mode = values.take("clip_mode")
    if mode not in keys:
        raise ConfigError([Problem("command line", f"--clip-mode: {mode!r}: timm knows {', '.join(keys)}")])
    return {keys[mode]: limit}


def precision(values: Values) -> Section | str:
    """Return the number format; on GPUs train.py lets float32 products be TF32."""
    kinds = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
    kind = (
        values.take("amp_dtype")
        if values.take("amp") or _older_amp(values)
        else values.look("model_dtype") or "float32"
    )
    if kind not in kinds:
        raise ConfigError([Problem("command line", f"{kind!r} is no number format of train.py: {', '.join(kinds)}")])
    if values.look("model_dtype") in ("float16", "bfloat16"):
        values.note("model_dtype", "parameters stay in float32 here, the forward pass is in the lower precision")
    return kinds[kind] if kind != "float32" else {"name": "fp32", "tf32": True}


def _older_amp(values: Values) -> bool:
    return bool(values.look("native_amp") or values.look("apex_amp"))


def _name(values: Values) -> str:
    """Return timm's name of the optimizer, without the `lookahead_` that may stand before it."""
    *before, name = str(values.take("opt")).lower().split("_")
    if before:
        values.note("opt", f"there is no {before[0]} here: {name} alone")
    return name


def _learning_rate(values: Values, global_batch: int) -> Section:
    """--lr is the rate itself; --lr-base is that of --lr-base-size samples, scaled as timm's train.py does."""
    if values.look("lr"):
        return {"base_learning_rate": values.take("lr"), "base_batch": global_batch, "scaling": "none"}
    values.take("lr")
    size = values.take("lr_base_size")
    if size < 1:
        raise ConfigError([Problem("command line", f"--lr-base-size: {size}: write a number above 0")])
    scale = values.take("lr_base_scale")
    if not scale:
        scale = "sqrt" if any(part in values.look("opt").lower() for part in ("ada", "lamb")) else "linear"
    elif scale not in ("linear", "sqrt"):
        values.note("lr_base_scale", "train.py knows linear and sqrt, and takes anything else for linear")
    return {"base_learning_rate": values.take("lr_base"), "base_batch": size,
            "scaling": "sqrt" if scale == "sqrt" else "linear"}  # fmt: skip


def _betas(values: Values, options: Section, own: bool) -> None:
    betas = values.take("opt_betas")
    if not own:
        options["betas"] = betas
        return
    if len(betas) != 2:
        raise ConfigError([Problem("command line", f"--opt-betas: {len(betas)} numbers: write two")])
    options["beta1"], options["beta2"] = betas
