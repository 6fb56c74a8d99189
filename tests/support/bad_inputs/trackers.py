"""Where results go."""

from __future__ import annotations

from support.bad_inputs.bad import Bad, changed

OF_TRACKING = [
    changed(
        "a tracker that is no module:name",
        "{sample_log: true}",
        "{own: [my_trackers.printer]}",
        "x.yaml:17:18: tracking.own.0: 'my_trackers.printer'",
    ),
    changed(
        "a tracker that is not there",
        "{sample_log: true}",
        "{own: [nowhere:printer]}",
        "tracking.own: nowhere:printer: ModuleNotFoundError: No module named 'nowhere'",
    ),
    changed(
        "Weights & Biases without a project",
        "{sample_log: true}",
        "{wandb: {tags: [a]}}",
        "x.yaml:17:12: tracking.wandb.project: missing. Add it",
    ),
    changed(
        "a tag that is too long",
        "{sample_log: true}",
        f"{{wandb: {{project: a, tags: [{'a' * 65}]}}}}",
        "x.yaml:17:39: tracking.wandb.tags.0",
        "at most 64 characters",
    ),
    changed(
        "an option of TensorBoard",
        "{sample_log: true}",
        "{tensorboard: {folder: a}}",
        "x.yaml:17:26: tracking.tensorboard.folder: unknown key. Allowed: none.",
    ),
    changed(
        "a wrong key of MLflow",
        "{sample_log: true}",
        "{mlflow: {url: a}}",
        "tracking.mlflow.url: unknown key. Did you mean uri?",
    ),
    Bad("sync: a folder that is no run", ("images: is no run folder",), ("sync", "images")),
]
