"""DeepSpeed's JSON beside a recipe: what it is given, what contradicts, what is not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabatch.configs.deepspeed_json import contradictions, deepspeed_json, not_taken
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.recipe import Recipe
from megabatch.launcher.engine_file import with_engine_file

SGD = "optimizer={name: sgd, base_learning_rate: 0.1}"


def recipe_with(engine: str, *overrides: str) -> Recipe:
    return load("digits", "laptop", [f"engine={{name: deepspeed, {engine}}}", SGD, *overrides]).recipe


def test_deepspeed_gets_the_micro_batch_and_neither_counts_nor_clips() -> None:
    assert deepspeed_json(recipe_with("zero_stage: 2, reduce_bucket_size: 1000", "regularization.clip_norm=1.0")) == {
        "train_micro_batch_size_per_gpu": 32,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "compute_grad_norm": False},
    }


def test_what_a_users_json_says_goes_on_unchanged_and_auto_is_filled() -> None:
    given = (
        "config: {train_batch_size: auto, prescale_gradients: true, flops_profiler: {enabled: true, profile_step: 3}, "
        "zero_optimization: {stage: 3, overlap_comm: false, stage3_prefetch_bucket_size: auto}}"
    )
    recipe = recipe_with(given)
    made = deepspeed_json(recipe)
    assert made["prescale_gradients"] is True
    assert made["flops_profiler"] == {"enabled": True, "profile_step": 3}
    assert made["zero_optimization"] == {"stage": 3, "overlap_comm": False}
    assert "train_batch_size" not in made
    assert list(contradictions(recipe, 2)) == list(not_taken(recipe)) == []


@pytest.mark.parametrize(("given", "told"), [
    ("train_batch_size: 128", "train_batch_size=128, and batch.global_batch makes it 256"),
    ("train_micro_batch_size_per_gpu: 64", "train_micro_batch_size_per_gpu=64, and batch.micro_batch makes it 32"),
    ("gradient_accumulation_steps: 8", "gradient_accumulation_steps=8, and batch, shared by the ranks, makes it 4"),
    ("gradient_allreduce_op: sum", "gradient_allreduce_op=sum, and batch.global_batch makes it mean"),
    ("optimizer: {type: Adam}", "optimizer, and the recipe has optimizer"),
    ("scheduler: {type: WarmupLR}", "scheduler, and the recipe has schedule"),
    ("fp16: {enabled: true}", "fp16.enabled, and the recipe has precision=fp32"),
    ("torch_autocast: {enabled: true}", "torch_autocast.enabled, and the recipe has precision=fp32"),
    ("zero_optimization: {reduce_bucket_size: 5}",
     "zero_optimization.reduce_bucket_size=5, and engine.reduce_bucket_size makes it 1000"),
])  # fmt: skip
def test_a_contradiction_is_told_with_both_places(given: str, told: str) -> None:
    recipe = recipe_with(f"zero_stage: 2, reduce_bucket_size: 1000, config: {{{given}}}")
    assert list(contradictions(recipe, 2)) == [f"engine.config: {told}"]


def test_what_agrees_or_is_switched_off_is_no_contradiction() -> None:
    given = (
        "config: {train_batch_size: 256, train_micro_batch_size_per_gpu: 32, gradient_accumulation_steps: 4, "
        "gradient_clipping: 0.5, fp16: {enabled: false}, bf16: {enabled: auto}, zero_optimization: {stage: 1}}"
    )
    recipe = recipe_with(given, "regularization.clip_norm=0.5")
    assert list(contradictions(recipe, 2)) == list(not_taken(recipe)) == []
    assert recipe.engine.stage == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("given", ["sparse_gradients: true", "zero_optimization: {stage: 1, zenflow: {}}"])
def test_a_key_that_would_change_the_training_is_not_taken(given: str) -> None:
    assert len(list(not_taken(recipe_with(f"config: {{{given}}}")))) == 1


@pytest.mark.parametrize(("engine", "told"), [
    ("zero_stage: 0, reduce_bucket_size: 10", "reduce_bucket_size does nothing with zero_stage 0"),
    ("zero_stage: 2, stage3_prefetch_bucket_size: 10", "stage3_prefetch_bucket_size does nothing with zero_stage 2"),
    ("zero_stage: 3, allgather_bucket_size: 10", "allgather_bucket_size does nothing with zero_stage 3"),
    ("zero_stage: 4", "less than or equal to 3"),
    ("allgather_bucket_size: 11", "multiple of 2"),
])  # fmt: skip
def test_an_option_that_does_nothing_or_cannot_be_is_a_mistake(engine: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe_with(engine)


def job_with(folder: Path, engine: str, fingerprint: str = "") -> Job:
    loaded = load("digits", "laptop", [f"engine={{name: deepspeed, {engine}}}", SGD])
    return Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint=fingerprint,
               version="1")  # fmt: skip


def test_the_job_keeps_what_the_file_said_when_it_was_launched(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    job = with_engine_file(job_with(tmp_path, "config_file: ds.json"))
    assert job.recipe.engine.config == {"zero_optimization": {"stage": 2}}  # type: ignore[union-attr]
    assert job.recipe.engine.stage == 2  # type: ignore[union-attr]
    (tmp_path / "ds.json").unlink()
    launched = job.model_copy(update={"data_fingerprint": "abc"})
    assert with_engine_file(launched) == launched


@pytest.mark.parametrize(("content", "told"), [
    (None, "engine.config_file: ds.json: No such file or directory"),
    ("{", "engine.config_file: ds.json is no JSON"),
    ("[]", "engine.config_file: ds.json has no keys"),
    ('{"zero_optimization": {"stage": 2}}', "engine: stage3_prefetch_bucket_size does nothing with zero_stage 2"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_a_mistake(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "ds.json").write_text(content)
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        with_engine_file(job_with(tmp_path, "config_file: ds.json, stage3_prefetch_bucket_size: 10"))


def test_file_and_config_together_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write either config_file or config"):
        with_engine_file(job_with(tmp_path, "config_file: ds.json, config: {steps_per_print: 5}"))


def test_the_engine_is_no_part_of_the_fingerprint() -> None:
    one, other = (job_with(Path("/"), engine) for engine in ("zero_stage: 0", "zero_stage: 2"))
    assert one.fingerprint() == other.fingerprint()
