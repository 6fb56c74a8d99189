"""The network of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from megabatch.configs.base import (
    Frozen,
)

# `{width:3}` without a space is a key "width:3" in YAML; timm would ignore it without a word.
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class Model(Frozen):
    """`timm/NAME`, `torchvision/NAME`, or `package.module:callable`, called with num_classes and the options."""

    name: Annotated[str, Field(pattern=r"^(timm/[\w.\-]+|torchvision/\w+|[\w.]+:\w+)$")]
    options: dict[OptionName, Any] = {}  # Any: the keyword arguments of somebody else's model
