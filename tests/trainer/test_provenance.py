"""What a checkpoint says of its origin, and what a run says that goes on elsewhere."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest
import torch

from megabatch.configs.tracking import Mlflow
from megabatch.trainer import checkpoint, loop, provenance
from support.runs import Workplace
from support.training import training


def test_a_checkpoint_has_the_resolved_recipe_the_versions_and_the_tracker_s_id(workplace: Workplace) -> None:
    with training(workplace, "origin", "epochs=1") as parts:
        parts.run_dir.wandb_id.write_text("abcd1234\n")
        loop.train(parts)
        state = checkpoint.read_state(parts.run_dir.checkpoint(3))
        assert state["recipe"] == parts.job.recipe.model_dump(mode="json")
        assert state["versions"]["torch"] == torch.__version__
        assert state["versions"]["python"] == platform.python_version()
        assert state["wandb_id"] == "abcd1234"


def test_going_on_with_another_torch_is_said_loudly_and_with_the_same_not_at_all(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = "was written with torch 2.11.0, this is"
    now = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**now, "torch": "2.11.0"})
    with training(workplace, "moved", "epochs=2", "checkpoint.every_epochs=2") as parts:
        parts.step_parts = replace(parts.step_parts, stop_requested=lambda: True)
        assert loop.train(parts) == "stopped"
    with training(workplace, "moved") as parts:
        assert loud not in parts.run_dir.metrics.read_text()
    monkeypatch.undo()
    with training(workplace, "moved") as parts:
        assert f"{loud} {torch.__version__}. Going on is not bit for bit" in parts.run_dir.metrics.read_text()
        assert parts.state.step == 1


def test_every_start_that_trained_is_an_attempt_of_its_own_though_it_saved_nothing(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "save", lambda parts: None)
    for attempt in (1, 2):
        with training(workplace, "never-saved", "epochs=2", "checkpoint.every_epochs=2") as parts:
            assert parts.state.attempt == attempt
            parts.step_parts = replace(parts.step_parts, stop_requested=lambda: True)
            loop.train(parts)


def test_passwords_in_addresses_are_not_in_the_checkpoint(workplace: Workplace) -> None:
    with training(workplace, "secret", "epochs=1") as parts:
        data = parts.job.recipe.data.model_copy(update={"path": "https://me:hidden@example.org/data"})
        tracking = parts.job.recipe.tracking.model_copy(update={"mlflow": Mlflow(uri="http://me:hidden@tracks.org/")})
        recipe = parts.job.recipe.model_copy(update={"data": data, "tracking": tracking})
        shown = str(provenance.shown_recipe(parts.job.model_copy(update={"recipe": recipe})))
        assert "hidden" not in shown
        assert "tracks.org" in shown
