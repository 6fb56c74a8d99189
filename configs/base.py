"""The base classes of the schema: strict, frozen, unknown keys forbidden. Knows no key by name."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LARGEST = 2**63 - 1  # what an int64 of numpy and torch holds
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class EnvironmentAllowed:
    """Marks the fields in which `${env:NAME}` is replaced. Everywhere else it is an error."""


EnvironmentText = Annotated[str, EnvironmentAllowed()]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _all_finite(value: Any) -> Any:  # Any: what YAML can say
    """Refuse nan and inf, which the JSON of a job cannot carry."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number that can be used here")
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _all_finite(inside)
    return value


# Keyword arguments of somebody else's function. `{width:3}` without a space is a key "width:3" in YAML; timm would
# ignore it without a word.
Options = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")], Any], AfterValidator(_all_finite)  # Any: what they take
]


def _import_path(text: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", text):
        raise ValueError("write MODULE:FUNCTION, such as my_module:my_function")
    return text


# What is the user's own: a callable in a module of the current folder, or of an installed package.
ImportPath = Annotated[str, AfterValidator(_import_path)]


class Frozen(BaseModel):
    """A section of a recipe or cluster file. `true` is no integer and `"8"` is no number here."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Choice(Frozen):
    """One of several named alternatives; subclasses declare `name: Literal["..."]`.

    `implementation` is the dotted path ("package.module:function") of what the name stands for. It is imported where
    it is needed and nowhere else, so that the schema stays free of torch.
    """

    implementation: ClassVar[str] = ""


def name_only(value: Any) -> Any:  # Any: whatever stands in the YAML file
    """Let `optimizer: lars` stand for `optimizer: {name: lars}`."""
    return {"name": value} if isinstance(value, str) else value
