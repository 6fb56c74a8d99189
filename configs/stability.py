"""What becomes of a step that would harm the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megabatch.configs.base import Frozen, PositiveInt


class Stability(Frozen):
    """A step whose loss or gradient is not finite stops the run, or is passed over: no update, on any rank.

    With `loss_spike: k` so is a step whose loss is above k times the median of the last `window` losses. Each is told,
    with the samples it had; more than `max_passed_over` of them in a run stop it.
    """

    on_nonfinite: Literal["stop", "pass_over"] = "stop"
    loss_spike: Annotated[float, Field(gt=1)] | None = None
    window: Annotated[int, Field(ge=5)] = 50
    max_passed_over: PositiveInt = 10

    @property
    def guards(self) -> bool:
        """Return whether any step can be passed over."""
        return self.on_nonfinite == "pass_over" or self.loss_spike is not None
