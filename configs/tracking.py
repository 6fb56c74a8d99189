"""Where results go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megabatch.configs.base import (
    EnvironmentAllowed,
    EnvironmentText,
    Frozen,
    ImportPath,
    PositiveFloat,
    PositiveInt,
)

LONGEST_TAG = 64  # what Weights & Biases takes
Tag = Annotated[str, EnvironmentAllowed(), Field(min_length=1, max_length=LONGEST_TAG)]


class Wandb(Frozen):
    """Weights & Biases. `auto` is online with a key and offline without.

    `name` is that of the run folder if it is not given; `group`, `job_type` and `tags` are what runs are sorted by
    there (studies of several runs fill in those that are not given). With `log_report` and `log_checkpoint` the report
    and the best checkpoint are sent as artifacts when the run has ended.
    """

    project: EnvironmentText
    entity: EnvironmentText | None = None
    name: EnvironmentText | None = None
    group: EnvironmentText | None = None
    job_type: EnvironmentText | None = None
    tags: tuple[Tag, ...] = ()
    mode: Literal["auto", "online", "offline"] = "auto"
    log_report: bool = False
    log_checkpoint: bool = False


class TensorBoard(Frozen):
    """Event files in RUN_DIR/tensorboard; needs `pip install 'megabatch[tensorboard]'`. No options: write `{}`."""


class Mlflow(Frozen):
    """MLflow; needs `pip install 'megabatch[mlflow]'`.

    `uri` is a server or a database (`sqlite:///mlflow.db`); without it MLFLOW_TRACKING_URI, or mlflow.db where the job
    is started. The experiment has the recipe's name if none is given.
    """

    uri: EnvironmentText | None = None
    experiment: EnvironmentText | None = None


class Tracking(Frozen):
    """Where results go besides RUN_DIR/metrics.jsonl, which is always written: every `every_steps` steps one line,
    and one for each step that was passed over or had samples that could not be used.

    `gradient_norm` adds the norm of the gradient before clipping (one pass over it a step; free with `clip_norm`).
    `noise_scale` measures the gradient noise scale and says what it means for the batch (docs/large-batch.md).
    `update_ratio` adds the norm of a logged step's update relative to that of the weights.
    `trust_ratios_every_steps` adds lines with the trust ratio of each adapted parameter under LARS and LAMB.
    `own` names functions of your own, as module:function: each is called with (job, run_dir, lines) and goes through
    the lines of metrics.jsonl as they are written (docs/tracking.md).
    """

    every_steps: PositiveInt = 1
    gradient_norm: bool = False
    noise_scale: bool = False
    update_ratio: bool = False
    trust_ratios_every_steps: PositiveInt | None = None
    print_every_seconds: PositiveFloat = 5.0
    sample_log: bool = False
    wandb: Wandb | None = None
    tensorboard: TensorBoard | None = None
    mlflow: Mlflow | None = None
    own: tuple[ImportPath, ...] = ()
