"""The command line as a user meets it: exit codes, one line a mistake, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megabatch.configs.load import read_job, shipped
from megabatch.configs.normalization import Fixed
from megabatch.launcher.cli import app
from support.runs import RECIPE, Workplace
from support.shards import dataset


def megabatch(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160", "NO_COLOR": "1"})


@pytest.fixture
def place(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace.folder)
    return workplace.folder


def error_of(*arguments: str) -> str:
    result = megabatch(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    return result.stderr


def test_help_names_every_command_with_an_example() -> None:
    assert "Start here:" in megabatch("--help").stdout
    for command in ("plan", "launch", "eval", "config", "data"):
        assert megabatch(command, "--help").exit_code == 0
    assert "Examples:\n    megabatch launch digits" in megabatch("launch", "--help").stdout


def test_plan_shows_the_batch_arithmetic(place: Path) -> None:
    text = megabatch("plan", "recipe.yaml").stdout
    assert "ceil(20 / 4) = 5 a step; 2 to 3 a rank" in text
    assert "3 an epoch x 2 epochs = 6, 88 samples in all" in text
    assert "20 samples a step, the last batch of an epoch has 4" in text
    assert "warmup 1 epochs = 3 steps" in text


def test_plan_shows_what_becomes_of_an_image_in_order(place: Path) -> None:
    text = megabatch("plan", "recipe.yaml", "data.batch_transforms=[mixup]", "data.normalize=per_image").stdout
    assert "train: random_crop, horizontal_flip, per_image, mixup" in text
    assert "evaluation: per_image" in text


def test_automatic_normalization_puts_the_statistics_into_the_job(place: Path) -> None:
    stats = place / "data" / "stats.json"
    arguments = ("launch", "recipe.yaml", "data.normalize=auto", "--dry-run", "--write")
    assert "has no stats.json. Run `megabatch data stats" in error_of(*arguments, "auto-run")
    stats.write_text("{")
    assert "stats.json is not of format 'megabatch-stats-1'" in error_of(*arguments, "auto-run")
    numbers = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.3]}
    stats.write_text(json.dumps({"format": "megabatch-stats-1", "train": numbers}))
    try:
        assert megabatch(*arguments, "auto-run").exit_code == 0
        fixed = read_job(place / "auto-run" / "job.yaml")
        stats.write_text(json.dumps({"format": "megabatch-stats-1", "train": {**numbers, "mean": [0.6, 0.4, 0.3]}}))
        assert megabatch(*arguments, "other-run").exit_code == 0
        other = read_job(place / "other-run" / "job.yaml")
    finally:
        stats.unlink()
    assert fixed.recipe.data.normalize == Fixed(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.3))
    assert fixed.fingerprint() != other.fingerprint()


def test_plan_as_json_has_the_same_numbers(place: Path) -> None:
    plan = json.loads(megabatch("plan", "recipe.yaml", "--json", "optimizer.scaling=linear").stdout)
    assert (plan["micro_batches_per_step"], plan["total_steps"], plan["samples_per_rank"]) == (5, 6, [20, 24])
    assert plan["peak_learning_rate"] == pytest.approx(0.05 * 20 / 256)


def test_dry_run_shows_the_exact_command(place: Path) -> None:
    text = megabatch("launch", "recipe.yaml", "--dry-run").stdout
    assert "-m megabatch.trainer.node RUN_DIR/job.yaml" in text
    assert "OMP_NUM_THREADS=1" in text


def test_a_run_whose_working_folder_is_gone_is_told_and_goes_on_from_another(place: Path, tmp_path: Path) -> None:
    megabatch("launch", "recipe.yaml", "--dry-run", "--write", "moved")
    job = place / "moved" / "job.yaml"
    written = job.read_text()
    job.write_text(written.replace(f"working_folder: {place}\n", f"working_folder: {tmp_path / 'gone'}\n"))
    megabatch("launch", "recipe.yaml", "--dry-run", "--write", "other")
    for arguments in (("launch", "--resume", "moved"), ("eval", "moved"), ("soup", "moved", "other", "--output", "s")):
        told = error_of(*arguments)
        assert f"working_folder: {tmp_path / 'gone'} is no folder any more; relative paths" in told
    job.write_text(written)
    assert "RUN_DIR" not in megabatch("launch", "--resume", "moved", "--dry-run").stdout


def test_a_wrong_key_is_told_with_file_and_line(place: Path) -> None:
    (place / "wrong.yaml").write_text(RECIPE.replace("epochs: 2", "epoch: 2"))
    assert error_of("launch", "wrong.yaml").splitlines() == [
        "error: wrong.yaml:1:1: epochs: missing. Add it at the top level.",
        "error: wrong.yaml:2:1: epoch: unknown key. Did you mean epochs? Allowed: name, seed, epochs, data, model, batch, loss, "
        "distillation, optimizer, schedule, precision, engine, regularization, averaging, pruning, quantization, continual, stability, evaluation, checkpoint, tracking, deterministic.",
    ]


def test_a_missing_shard_is_told_before_any_rank_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path, {"train": 30})
    (tmp_path / "data" / "train-000001.tar").unlink()
    with (tmp_path / "data" / "train-000002.tar").open("ab") as shard:
        shard.truncate(700)
    (tmp_path / "data" / "train-000000.idx").unlink()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    lines = error_of("launch", "recipe.yaml").splitlines()
    assert len(lines) == 3
    assert "train-000000.idx: missing. Make it with: megabatch data index" in lines[0]
    assert "train-000001.tar: missing. Copy it back, or make dataset.json anew" in lines[1]
    assert "train-000002.tar: 700 bytes, dataset.json recorded" in lines[2]
    assert not (tmp_path / "runs").exists()


def test_an_empty_data_set_and_a_label_outside_the_classes_are_told_before_any_rank_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path, {"train": 30})
    description = tmp_path / "data" / "dataset.json"
    whole = json.loads(description.read_text())
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    whole["classes"] = ["class0", "class1"]
    description.write_text(json.dumps(whole))
    assert "split 'train' has labels 0 to 2, but there are 2 classes" in error_of("launch", "recipe.yaml")
    whole["splits"]["train"] = {"samples": 0, "label_counts": {}, "shards": []}
    description.write_text(json.dumps(whole))
    assert "data.train_split: the split 'train' of" in error_of("launch", "recipe.yaml")
    whole["splits"] = {}
    description.write_text(json.dumps(whole))
    assert "has no splits: there is nothing to read" in error_of("launch", "recipe.yaml")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch", "recipe.yaml", "--cluster", "one-node-8gpu"], "asks for 8 GPUs, this machine has 0"),
        (["launch", "recipe.yaml", "--write", "x"], "--write goes with --dry-run"),
        (["eval", "nowhere"], "nowhere: is no run folder"),
        (["config", "schema", "recipes"], "no schema 'recipes': write recipe or cluster"),
        (["data", "info", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_say_what_to_do(place: Path, arguments: list[str], message: str) -> None:
    assert message in error_of(*arguments)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=timm/resnet_fifty", "timm has no model 'resnet_fifty'. Did you mean"),
        ("model.name=torchvision/resnet81", "torchvision has no model 'resnet81'. Did you mean resnet18?"),
        ("model.name=nothing:here", "No module named 'nothing'. Modules are looked for in the current folder"),
        ("model.name=network:smal", "network has no 'smal'. Did you mean small?"),
        ("model.options={width: 3}", "unexpected keyword argument 'width'"),
        (
            "model={name: timm/vit_tiny_patch16_224}",
            "a micro-batch of 4 images of 8 x 8 does not pass: Input height (8) doesn't",
        ),
        ("model.name=collections:Counter", "returned Counter, not a torch.nn.Module"),
        ("engine={name: fsdp, wrap: ['block.*']}", "engine.wrap: 'block.*' fits no module. Modules are called 0, 1, 2"),
        ("data.image_size=16", "pixels are too few for random_crop to data.image_size = 16"),
    ],
)
def test_what_only_torch_can_see_is_told_before_any_rank_starts(place: Path, override: str, message: str) -> None:
    assert message in error_of("launch", "recipe.yaml", override)
    assert not (place / "runs").exists()


def test_config_show_prints_every_value_and_where_it_comes_from(place: Path) -> None:
    text = megabatch("config", "show", "recipe.yaml", "seed=7", "--origin").stdout
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert rows["seed"].split(maxsplit=2)[1:] == ["7", "command line, seed=7"]
    assert rows["batch.micro_batch"].split()[1:] == ["4", "recipe.yaml:13:27"]
    assert rows["optimizer.momentum"].split()[1:] == ["0.9", "default"]


def test_config_show_prints_yaml_that_loads_again(place: Path) -> None:
    text = megabatch("config", "show", "recipe.yaml").stdout
    (place / "shown.yaml").write_text(text.partition("# cluster")[0])
    assert megabatch("config", "show", "shown.yaml").stdout == text


def test_the_schema_is_json_that_names_every_key() -> None:
    schema = json.loads(megabatch("config", "schema").stdout)
    assert "optimizer" in schema["properties"]
    assert schema["additionalProperties"] is False
    assert "processes_per_node" in json.loads(megabatch("config", "schema", "cluster").stdout)["properties"]


def test_the_shipped_files_are_listed() -> None:
    text = megabatch("config", "list").stdout
    assert all(name in text for kind in ("recipes", "clusters") for name in shipped(kind))
