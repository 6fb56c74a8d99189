"""Writes the run folder of a network that was made and not trained (a soup, an ensemble) as one that has finished."""

from __future__ import annotations

from typing import Any

from megabatch.configs.job import Job
from megabatch.trainer import checkpoint
from megabatch.trainer.build import Parts
from megabatch.trainer.checkpoint import Snapshot
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.process import write_json
from megabatch.trainer.sharding import Tensors
from megabatch.trainer.state import TrainState


def write_finished(
    parts: Parts,
    job: Job,
    network: Tensors,
    validation: EvaluationResult | None,
    test: dict[str, Any] | None,
    told: dict[str, Any],
) -> None:
    """Write a checkpoint at the last step, without an optimizer, and result.json; `told` stands in its state too.

    `job` is the one that job.yaml will have.
    """
    if not parts.world.is_main:
        return
    steps = parts.steps.total
    training = TrainState(
        step=steps,
        samples_seen=parts.steps.samples_seen(steps),
        evaluated_step=steps,
        best_step=steps if validation is not None else None,
        best_value=validation.value(job.recipe.metric) if validation is not None else None,
    ).to_json()
    state = {
        "fingerprint": job.fingerprint(),
        "training": training,
        "scaler": None,
        "num_ranks": parts.world.num_ranks,
        **told,
    }
    checkpoint.save(parts.run_dir, steps, Snapshot(network, {}, state))
    tested = {"test": {**test, "checkpoint_step": steps}} if test is not None else {}
    write_json(
        parts.run_dir.result, {"outcome": "finished", "total_steps": steps, **tested, **training, "seconds": 0.0}
    )
