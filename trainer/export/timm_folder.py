"""A folder as timm's `save_for_hf` writes it: `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from megabatch.configs.errors import ConfigError, Problem
from megabatch.trainer.export.card import FILE, Card
from megabatch.trainer.export.formats import Predict

SUFFIX = ""
# What timm's configuration says of its own weights of a model, and not of ours.
_OF_TIMMS_WEIGHTS = (
    "url", "file", "hf_hub_id", "tag", "license", "origin_url", "paper_name", "paper_ids", "notes", "label_names",
    "label_descriptions", "label_offset", "test_input_size", "test_crop_pct", "pool_size",
)  # fmt: skip


def refuse(card: Card) -> None:
    """Refuse what timm's config.json cannot say."""
    model = card.model
    changed = [key for key in ("activation", "replace_batch_norm") if model[key] is not None]
    if not model["name"].startswith("timm/"):
        _refuse(f"model {model['name']} is none of timm's, so timm cannot build it")
    if changed:
        _refuse(
            f"model.{changed[0]} changes timm's {model['name'].removeprefix('timm/')}, and config.json cannot say so"
        )
    if card.pruning is not None:
        _refuse("the network has lost channels, and config.json cannot say which")
    if card.normalize["name"] != "fixed":
        _refuse(f"timm scales pixels with a fixed mean and deviation, not as data.normalize: {card.normalize['name']}")


def _refuse(seen: str) -> None:
    raise ConfigError([Problem("--format timm", f"{seen}. Instead: --format safetensors")])


def write(network: nn.Module, card: Card, target: Path) -> None:
    """Write config.json, model.safetensors and the card."""
    from timm.models import save_for_hf

    config: dict[str, Any] = {**network.pretrained_cfg, **_preprocessing(card), "num_classes": card.outputs}  # type: ignore[dict-item]
    for key in _OF_TIMMS_WEIGHTS:
        config.pop(key, None)
    network.pretrained_cfg = config  # type: ignore[assignment]
    names = {"label_names": list(card.names)} if card.names else {}
    save_for_hf(network, str(target), model_config=names, model_args=card.model["options"], safe_serialization=True)
    (target / FILE).write_text(card.to_json(), encoding="utf-8")


def _preprocessing(card: Card) -> dict[str, Any]:
    """Return what timm's transforms need: our resize is bilinear, of the shorter side, then the middle is cut out."""
    size = card.image_size
    resized = [one["size"] for one in card.evaluation_transforms if one["name"] == "resize"]
    return {
        "input_size": (3, size, size),
        "mean": tuple(card.normalize["mean"]),
        "std": tuple(card.normalize["std"]),
        "interpolation": "bilinear",
        "crop_pct": size / resized[-1] if resized else 1.0,
        "crop_mode": "center",
    }


def read(target: Path) -> Predict:
    """Return the network that timm builds from the folder."""
    import timm

    network: nn.Module = timm.create_model(f"local-dir:{target}", pretrained=True)
    return network.eval().requires_grad_(False)
