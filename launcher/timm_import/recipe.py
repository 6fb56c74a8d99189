"""train.py's arguments as a whole recipe, written as YAML with a comment for each that is not the same here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from megabatch.configs.errors import ConfigError, Problem, shortened
from megabatch.configs.load import validate
from megabatch.configs.recipe import Recipe
from megabatch.configs.yaml_tree import Tree
from megabatch.launcher.timm_import import images, optimizer, schedule
from megabatch.launcher.timm_import.values import Section, Values


class Imported(NamedTuple):
    """The values of a recipe, and what its comments say."""

    values: Section
    first: list[str]  # before the recipe can be used
    told: list[str]  # a line for each argument that is not the same here


def recipe(values: Values, left: list[str]) -> Imported:
    """Return the recipe of a command; `left` are words of it that only say how processes are started."""
    repeats = _repeats(values)
    batch = _batch(values)
    section = optimizer.optimizer(values, batch["global_batch"])
    course, epochs = schedule.schedule(values, optimizer.peak(section, batch["global_batch"]))
    course, epochs = schedule.divided(course, epochs, repeats)
    found: dict[str, Any] = {
        "name": _name(values),
        "seed": values.take("seed"),
        "epochs": epochs,
        "data": _data(values, repeats),
        "model": _model(values),
        "batch": batch,
        "loss": images.loss(values),
        "optimizer": section,
        "schedule": course,
        "precision": optimizer.precision(values),
        "regularization": _regularization(values, section["name"]),
        "averaging": _averaging(values),
        "evaluation": _evaluation(values, repeats),
        "checkpoint": _checkpoint(values, repeats),
        "tracking": _tracking(values),
    }
    found = {key: value for key, value in found.items() if value not in (None, {}, [])}
    validate(Recipe, Tree({**found}, {(): "the recipe of these arguments"}))
    told = values.told()
    if left:
        told.append(
            f"{shortened(shlex.join(left))}: how processes are started is said by the cluster file (docs/hosts.md)"
        )
    return Imported(found, _first(values), told)


def _batch(values: Values) -> Section:
    """Return the batch: train.py's is that of one process, and of one of its passes."""
    micro = values.take("batch_size")
    passes = max(1, values.take("grad_accum_steps"))
    if micro < 1:
        raise ConfigError([Problem("command line", f"--batch-size: {micro}: write a number above 0")])
    return {"global_batch": micro * values.processes * passes, "micro_batch": micro}


def _repeats(values: Values) -> int:
    """Return how often each sample comes in an epoch. timm repeats only among several processes."""
    repeats = values.look("aug_repeats")
    if not repeats:
        return 1
    if not float(repeats).is_integer() or repeats < 0:
        raise ConfigError([Problem("command line", f"--aug-repeats: {repeats:g}: only whole repeats exist here")])
    values.take("aug_repeats")
    values.note(
        "aug_repeats", f"an epoch here has every sample {repeats:g} times, so all lengths in epochs are divided by it"
    )
    return int(repeats)


def _data(values: Values, repeats: int) -> Section:
    size = images.image_size(values)
    found: Section = {"path": _path(values), "image_size": size}
    found["train_split"] = values.take("train_split")
    found["validation_split"] = values.take("val_split") or None
    found["test_split"] = None
    if repeats > 1:
        found["repeats"] = repeats
    found["train_transforms"] = images.train_transforms(values, size)
    found["evaluation_transforms"] = images.evaluation_transforms(values, size)
    found["normalize"] = images.normalization(values)
    found["batch_transforms"] = images.batch_transforms(values)
    return {key: value for key, value in found.items() if value != []}


def _path(values: Values) -> str:
    """Return the folder of shards: train.py's own where it had shards, else one to import to."""
    folder = _folder(values)
    if folder is None:
        return "data/mine"
    if values.look("dataset").startswith("wds/"):
        return folder
    return f"data/{Path(folder).name or 'mine'}"


def _folder(values: Values) -> str | None:
    """Return where train.py finds its data: --data-dir, or else the first argument."""
    directory = values.look("data_dir")
    folder = values.take("data_dir") if directory else values.take("data")
    return None if folder is None else str(folder)


def _model(values: Values) -> Section:
    name = values.take("model")
    if ":" in name:
        values.note("model", "models come from timm by their own names; those of a hub only if timm has them too")
        name = name.rpartition("/")[2] or name.rpartition(":")[2]
    options: Section = {}
    for argument, key in (("gp", "global_pool"), ("drop_block", "drop_block_rate"), ("bn_momentum", "bn_momentum"),
                          ("bn_eps", "bn_eps")):  # fmt: skip
        if values.look(argument) is not None:
            options[key] = values.take(argument)
    found: Section = {"name": f"timm/{name}", "options": {**options, **values.take("model_kwargs")}}
    found |= _weights(values)
    if values.take("sync_bn"):
        found["batch_norm"] = "synchronized"
    if values.take("channels_last"):
        found["channels_last"] = True
    if values.look("torchcompile") is not None:
        found["compile"] = _compile(values)
    return {key: value for key, value in found.items() if value != {}}


def _weights(values: Values) -> Section:
    """Return where the weights come from at first: --initial-checkpoint is read last there, so it counts most."""
    sources = ["initial_checkpoint"]
    if values.look("pretrained"):
        sources.append("pretrained_path")
    elif values.look("pretrained_path"):
        values.note("pretrained_path", "train.py reads it only beside --pretrained, and so it is left out")
    for name in sources:
        source = values.look(name)
        if source and "://" in source:
            values.note(name, "is a URL: fetch the file first, and write model.pretrained: FILE")
        elif source:
            values.take(name)
            if name == "pretrained_path":
                values.take("pretrained")
            said = "weights alone, without Python objects, are read; for other classes name the head in leave_out"
            values.note(name, said)
            return {"pretrained": {"source": source}}
    return {"pretrained": "timm"} if values.take("pretrained") else {}


def _compile(values: Values) -> Section:
    found: Section = {"backend": values.take("torchcompile")}
    mode = values.look("torchcompile_mode")
    if mode in ("default", "reduce-overhead", "max-autotune") and found["backend"] == "inductor":
        found["mode"] = values.take("torchcompile_mode")
    elif mode is not None:
        values.note("torchcompile_mode", "modes are default, reduce-overhead and max-autotune, with inductor alone")
    return found


def _regularization(values: Values, optimizer_name: str) -> Section:
    clipping = optimizer.clipping(values, optimizer_name)
    found: Section = {"label_smoothing": values.take("smoothing"), **clipping}
    for name, key in (("drop", "dropout"), ("drop_path", "stochastic_depth")):
        if values.take(name):
            found[key] = values.look(name)
    return found


def _averaging(values: Values) -> Section | None:
    if not values.take("model_ema"):
        return None
    if not values.look("model_ema_warmup"):
        values.note("model_ema_decay", "less at the start: min(decay, (1 + n) / (10 + n)) after n steps")
    return {"name": "ema", "decay": values.take("model_ema_decay")}


def _evaluation(values: Values, repeats: int) -> Section:
    batch = values.take("validation_batch_size") or values.look("batch_size")
    interval = values.take("val_interval")
    if interval < 1:
        raise ConfigError([Problem("command line", f"--val-interval: {interval}: write a number above 0")])
    if interval % repeats:
        values.note(
            "val_interval",
            f"an epoch here is as long as {repeats} of timm's: evaluated every {max(1, interval // repeats)}",
        )
    found: Section = {"every_epochs": max(1, interval // repeats), "micro_batch": batch}
    metric = values.look("eval_metric")
    if metric in ("top1", "loss"):
        found["metric"] = values.take("eval_metric")
    else:
        values.note("eval_metric", "the best checkpoint is that of top1 or loss: top1 here")
    return found


def _checkpoint(values: Values, repeats: int) -> Section:
    found: Section = {"every_epochs": max(1, values.look("val_interval") // repeats)}
    if values.take("recovery_interval") > 0:
        found["every_steps"] = values.look("recovery_interval")
    return found


def _tracking(values: Values) -> Section:
    if not values.take("log_wandb"):
        return {}
    return {"wandb": {"project": values.take("wandb_project") or "uncategorized"}}


def _name(values: Values) -> str:
    """Return a name for the recipe: that of the experiment, or of the model, with signs that a name may have."""
    text = values.take("experiment") or values.look("model")
    return re.sub(r"[^A-Za-z0-9_.\-]", "-", text).lstrip("_.-")[:80] or "from-timm"


def _first(values: Values) -> list[str]:
    """Return what is to do before the recipe can be launched, and which cluster is like the command's processes."""
    folder = _folder(values)
    if folder is not None and values.look("dataset").startswith("wds/"):
        lines = [f"Index the shards: megabatch data index {shlex.quote(folder)}"]
    else:
        source = "FOLDER" if folder is None else shlex.quote(folder)
        lines = [f"Make shards first: megabatch data import {source} {shlex.quote(_path(values))}"]
    ranks = values.processes
    said = f"{ranks} process{'' if ranks == 1 else 'es'} there: cluster.processes_per_node={ranks} on one node here"
    return [*lines, f"{said}; on any other number the same steps are taken"]
