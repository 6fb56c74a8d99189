"""What becomes of a step that would harm the network, or already has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megabatch.configs.base import Frozen, PositiveInt


class Stability(Frozen):
    """What becomes of a bad step: its loss or gradient is not finite, or its loss is a spike.

    With `loss_spike: k` a loss above k times the median of the last `window` losses is a spike. `stop` ends the run
    before the update; `pass_over` makes no update, on any rank; `roll_back` goes back to a checkpoint and trains again
    without the `roll_back_steps` steps that end with the bad one. Each bad step is told, with the samples it had; more
    than `max_bad_steps` of them end the run.

    `compare_replicas_every_steps` compares the ranks' copies of the parameters, bit by bit, after every so many steps
    and before every checkpoint; a copy that differs ends the run.
    """

    on_bad_step: Literal["stop", "pass_over", "roll_back"] = "stop"
    loss_spike: Annotated[float, Field(gt=1)] | None = None
    window: Annotated[int, Field(ge=5)] = 50
    max_bad_steps: PositiveInt = 10
    roll_back_steps: PositiveInt = 2
    compare_replicas_every_steps: PositiveInt | None = None

    @property
    def guards(self) -> bool:
        """Return whether more is looked at before an update than the loss: the gradient, or earlier losses."""
        return self.on_bad_step != "stop" or self.loss_spike is not None

    @property
    def rolls_back(self) -> bool:
        """Return whether the run may go back to a checkpoint by itself."""
        return self.on_bad_step == "roll_back"
