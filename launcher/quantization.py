"""Does a recipe fit the quantization of the run it begins with? Its weights mean little without it."""

from __future__ import annotations

from pathlib import Path

from megabatch.configs.errors import ConfigError, Problem
from megabatch.configs.job import Job
from megabatch.launcher.pretrained import recipe_of_checkpoint


def require_quantization(job: Job) -> None:
    """Raise ConfigError where a run trained for few bits would go on in full precision; not in a run that has begun.

    A file in a checkpoint is just weights: naming it says that they are meant to be used so.
    """
    pretrained = job.recipe.model.pretrained
    if job.data_fingerprint or pretrained is None or pretrained.of_timm or job.recipe.quantization is not None:
        return
    source = Path(job.working_folder) / pretrained.source
    its = recipe_of_checkpoint(source).get("quantization") if source.is_dir() else None
    if its is not None:
        raise ConfigError(
            [
                Problem(
                    "quantization",
                    f"{pretrained.source} was trained with quantization {its['name']}, and the weights in its "
                    f"checkpoints are those before rounding. Write quantization: {its['name']} to train on, or "
                    f"model.pretrained={pretrained.source}/model.safetensors to begin with them as they are",
                )
            ]
        )
