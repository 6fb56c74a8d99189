"""How a recipe's pruning goes together with that of the run it begins with; all of it without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.pruning import Inherited, plan_hash
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.plan import Plan
from megabatch.launcher.prepare import Prepared, job_of
from megabatch.launcher.pruning import new_run_with_plan, require_no_plan, with_pruning
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study import ablation
from megabatch.launcher.study.batch_size import measure
from megabatch.launcher.study.further import comparison_rows, readable, source_run, train, write_recipe
from megabatch.launcher.study.lr_range import run_range_test
from megabatch.launcher.study.matrix import Cell
from megabatch.launcher.study.prune import pruning_recipe
from megabatch.launcher.study.sensitivity import page

HASH = "a" * 64
CHANNELS = {"name": "channels", "sha256": HASH}
MAGNITUDE = {"name": "magnitude", "sparsity": 0.5}


def job(tmp_path: Path, source: dict[str, object] | None, *overrides: str) -> Job:
    """Return a job that begins with the checkpoint of a run that was pruned like this."""
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"recipe": {"pruning": source} if source else {}}))
    loaded = load("digits", "laptop", ["model.pretrained=run/checkpoints/step-00000001", *overrides])
    return job_of(loaded).model_copy(update={"working_folder": str(tmp_path)})


@pytest.mark.parametrize(
    ("source", "override", "told"),
    [
        (CHANNELS, None, "was pruned .channels. and has lost channels, so its weights do not fit a whole network. Write "
         "pruning: inherited to train it as it is$"),
        (MAGNITUDE, None, "has weights that are zero. Write pruning: inherited to train it as it is, or "
         "model.pretrained=.*/model.safetensors to let the zeros grow again"),
        (None, "pruning=inherited", "was not pruned. Write pruning: magnitude, n_of_m or channels, or leave it out"),
        (CHANNELS, "pruning={name: magnitude, sparsity: 0.5}", "magnitude: .* was pruned already .channels."),
        (CHANNELS, "pruning=channels", "channels: .* was pruned already .channels.*Begin with the run that it came from"),
        (MAGNITUDE, "pruning=channels", "channels: .* was pruned already .magnitude."),
        (CHANNELS, f"pruning={{name: inherited, sha256: {'b' * 64}}}", "the plan has aaa.*Leave pruning.sha256 out"),
    ],
)  # fmt: skip
def test_a_pruned_source_and_a_recipe_that_does_not_fit_it_are_refused(
    tmp_path: Path, source: dict[str, object] | None, override: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        with_pruning(job(tmp_path, source, *([override] if override else [])))


@pytest.mark.parametrize("command", ["tune lr", "tune batch", "ablate"])
def test_commands_whose_runs_get_no_plan_refuse_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def call(found: Job) -> object:
        prepared = Prepared(found, cast(Plan, None))
        monkeypatch.setattr(ablation, "prepare", lambda recipe, cluster, overrides: prepared)
        if command == "tune lr":
            return run_range_test(prepared, 0.1, 1.0, 10)
        if command == "tune batch":
            return measure(found, 8, 1.0, None)
        return ablation.plan_ablation("recipe", "cluster", [], [Cell(())], 1, None)

    to_prune = job(tmp_path / "a", None, "pruning=channels")
    inherits = job(tmp_path / "b", CHANNELS, f"pruning={{name: inherited, sha256: {HASH}}}")
    for refused in (to_prune, inherits):
        with pytest.raises(ConfigError, match=f"`megabatch {command}` makes none. Leave pruning out"):
            call(refused)
    require_no_plan(job(tmp_path / "c", None, "pruning={name: magnitude, sparsity: 0.5}"), command)


@pytest.mark.parametrize(
    ("source", "override", "expected"),
    [
        (None, "seed=1", None),
        (CHANNELS, "pruning=inherited", HASH),
        (MAGNITUDE, "pruning=inherited", None),
        (MAGNITUDE, "pruning={name: magnitude, sparsity: 0.9}", None),
    ],
)
def test_what_fits_goes_on_with_the_plan_of_its_source(
    tmp_path: Path, source: dict[str, object] | None, override: str, expected: str | None
) -> None:
    settled = with_pruning(job(tmp_path, source, override))
    assert plan_hash(settled.recipe.pruning) == expected
    begun = settled.model_copy(update={"data_fingerprint": "d"})
    (tmp_path / "run/checkpoints/step-00000001/state.json").unlink()
    assert with_pruning(begun) is begun
    with pytest.raises(ConfigError, match="is damaged"):
        with_pruning(settled)


@pytest.mark.parametrize(("source", "refused"), [(CHANNELS, True), (MAGNITUDE, False)])
def test_the_file_of_a_smaller_network_is_refused_and_that_of_one_with_zeros_is_not(
    tmp_path: Path, source: dict[str, object], refused: bool
) -> None:
    wanted = job(tmp_path, source, "model.pretrained=run/checkpoints/step-00000001/model.safetensors")
    if refused:
        with pytest.raises(ConfigError, match="has lost channels"):
            with_pruning(wanted)
    else:
        assert with_pruning(wanted) is wanted


def test_a_new_run_has_the_plan_beside_the_job_that_names_it(tmp_path: Path) -> None:
    text = '{"tensors":{}}'
    wanted = job(tmp_path, None, "pruning=channels")
    named, run_dir = new_run_with_plan(wanted, tmp_path / "new", {"pruning_plan": text})
    assert run_dir.pruning_plan.read_text() == text
    assert plan_hash(named.recipe.pruning) == hashlib.sha256(text.encode()).hexdigest()
    assert named.recipe.pruning != wanted.recipe.pruning
    assert new_run_with_plan(wanted, tmp_path / "other", {"pruning_plan": None})[0] is wanted


@pytest.mark.parametrize("name", ["digits", "cifar10-laptop", "imagenet-vit"])
def test_a_recipe_written_without_its_defaults_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    from megabatch.launcher.render import yaml_text

    recipe = load(name, "laptop", ["pruning=inherited", "model.pretrained=timm" if "vit" in name else "seed=2"]).recipe
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml_text(readable(recipe)))
    assert load(str(file), "laptop").recipe == recipe
    assert "inherited" in file.read_text()
    assert "max_image_pixels" not in file.read_text()
    assert isinstance(recipe.pruning, Inherited)
    assert isinstance(recipe, Recipe)


def test_an_option_of_another_pruning_is_refused() -> None:
    done = CliRunner().invoke(app, ["prune", "nowhere", "--sparsity", "0.5"])
    assert done.exit_code == 2
    assert "--sparsity is not for --name channels, which takes --flops" in done.output


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_run_without_a_checkpoint_and_one_of_another_folder_are_refused(tmp_path: Path, checkpoints: bool) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.checkpoint(1).mkdir(parents=True)
    write_job(job_of(load("digits", "laptop")).model_copy(update={"working_folder": str(tmp_path)}), run_dir.job)
    if checkpoints:
        (run_dir.checkpoint(1) / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"cd {tmp_path}" if checkpoints else "has no checkpoint yet: train it first"):
        source_run(str(run_dir.root))


def test_nothing_stays_behind_where_a_pruned_run_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = RunDir(tmp_path / "run")
    recipe = pruning_recipe(source, job(tmp_path, None), {"name": "channels", "keep": []}, None, [])
    assert (recipe.epochs, recipe.seed, recipe.name) == (10, 1, "digits-pruned")
    run_dir = write_recipe(recipe, source, Path("new"))
    with pytest.raises(ConfigError, match="run is no run folder and no checkpoint"):
        train(run_dir, "laptop", [])
    assert not Path("new").exists()


def test_the_comparison_has_differences_of_accuracy_and_ratios_of_sizes() -> None:
    sizes = {
        "parameters": 1000,
        "nonzero": 1000,
        "flops": 8000,
        "bytes": 4000,
        "milliseconds_1": 2.0,
        "milliseconds_32": 9,
    }
    dense = {**sizes, "validation": 0.8, "test": 0.75}
    pruned = {**sizes, "flops": 2000, "nonzero": 500, "validation": None, "test": 0.74}
    rows = comparison_rows({"dense": dense, "pruned": pruned}, "top1")
    assert rows[0] == ("test top1", "0.7500", "0.7400", "-0.0100")
    assert ("operations for an image", "8,000", "2,000", "x 0.25") in rows
    assert ("not zero", "1,000", "500", "x 0.50") in rows


def test_the_page_of_a_scan_has_a_plot_for_each_layer() -> None:
    found = {"metric": "top1", "base": 0.9, "shares": [0.5, 0.9], "layers": {"<a>": [0.8, 0.1], "b": [0.9, 0.9]}}
    text = page(found, "run", "channels")
    assert text.count("<svg") == 2
    assert "&lt;a&gt;" in text
    assert "<a>" not in text
    assert "<td>0.1000</td>" in text
