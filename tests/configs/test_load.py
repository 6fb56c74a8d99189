"""Recipes and cluster files: what is accepted, how layers combine, and every mistake told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load, shipped

MINIMAL = """\
name: mine
epochs: 2
data: {path: data/mine, image_size: 8}
model: {name: "my_model:build"}
batch: {global_batch: 125, micro_batch: 5}
optimizer: {name: sgd, base_learning_rate: 1e-1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(recipe: str, cluster: str = "laptop", *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(recipe, cluster, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("recipe", shipped("recipes"))
@pytest.mark.parametrize("cluster", shipped("clusters"))
def test_every_shipped_recipe_and_cluster_loads(recipe: str, cluster: str) -> None:
    loaded = load(recipe, cluster)
    assert loaded.recipe.name == recipe
    assert loaded.cluster.name == cluster


def test_yaml_1_2_numbers_and_words_are_read_as_written(folder: Path) -> None:
    (folder / "mine.yaml").write_text(MINIMAL)
    loaded = load(
        "mine.yaml", "laptop", ["optimizer.momentum=9e-1", "cluster.environment={COUNTRY: no, TIME: 12:00:00}"]
    )
    assert loaded.recipe.optimizer.base_learning_rate == 0.1
    assert loaded.recipe.batch.global_batch == 125
    assert loaded.cluster.environment == {"COUNTRY": "no", "TIME": "12:00:00"}


def test_every_mistake_is_told_at_once_with_file_line_column_and_the_nearest_name(folder: Path) -> None:
    (folder / "bad.yaml").write_text("""\
base: digits
epochs: "3"
optimizer:
  name: lambb
data:
  image_size: -1
  path: ${env:MEGABATCH_UNSET}/x
  train_transforms:
    - {name: random_crop, paddin: 1}
    - flip
batch: {global_batch: 10.5, micro_batch: true}
schedule: {name: step}
evaluation: {metric: top5}
engin: ddp
seed: ${env:HOME}
""")
    assert problems("bad.yaml") == [
        "bad.yaml:2:1: epochs: '3': should be a valid integer",
        "bad.yaml:3:1: optimizer: 'lambb' is not known. Did you mean lamb? Allowed: sgd, adagrad, "
        "rmsprop, adam, adamw, lars, lamb, torch/NAME, timm/NAME.",
        "bad.yaml:6:3: data.image_size: -1: should be greater than 0",
        "bad.yaml:7:3: data.path: '${env:MEGABATCH_UNSET}/x': the environment variable MEGABATCH_UNSET is not set: "
        "export it",
        "bad.yaml:9:27: data.train_transforms.0.paddin: unknown key. Did you mean padding? Allowed: name, padding.",
        "bad.yaml:10:7: data.train_transforms.1: 'flip' is not known. Allowed: random_resized_crop, random_crop, "
        "horizontal_flip, resize, center_crop, vertical_flip, random_rotation, random_affine, color_jitter, grayscale, "
        "gaussian_blur, rand_augment, trivial_augment, auto_augment, random_erasing, custom.",
        "bad.yaml:11:9: batch.global_batch: 10.5: should be a valid integer",
        "bad.yaml:11:29: batch.micro_batch: True: should be a valid integer",
        "bad.yaml:12:1: schedule.every: missing. Add it under schedule.",
        "bad.yaml:13:14: evaluation.metric: 'top5' is not one of the values. Did you mean top1? Allowed: top1, "
        "map, mae, mse, r2, loss.",
        "bad.yaml:14:1: engin: unknown key. Did you mean engine? Allowed: name, seed, epochs, data, model, batch, loss, "
        "distillation, optimizer, schedule, precision, engine, regularization, averaging, pruning, quantization, continual, stability, evaluation, checkpoint, tracking, deterministic.",
        "bad.yaml:15:1: seed: '${env:HOME}': ${env:NAME} is not replaced in this key: write the value",
        "bad.yaml:15:1: seed: '${env:HOME}': should be a valid integer",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "x.yaml:2:1: the key a is here twice: keep one"),
        ("a: [1,\n", "x.yaml:2:1: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: !!python/object:os.system x\n", "x.yaml:1:4: the tag tag:yaml.org,2002:python/object:os.system is not "
         "allowed: write a plain value"),
        ("\ta: 1\n", "x.yaml:1:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: &a [*a]\n", "x.yaml:1:4: aliases (&name, *name) expand without end: write the values out"),
        ("- 1\n", "x.yaml: the top level is not a mapping: write `key: value` lines"),
        ("base: x.yaml\n", "x.yaml:1:1: base: x.yaml leads back to this file: break the circle"),
        ("base: nowhere\n", "x.yaml:1:1: base: no recipe is called 'nowhere'. Allowed: "
         + ", ".join(shipped("recipes")) + ". Or give a path."),
    ],
)  # fmt: skip
def test_broken_files_are_told_with_their_place(folder: Path, text: str, message: str) -> None:
    (folder / "x.yaml").write_text(text)
    assert problems("x.yaml") == [message]


def test_a_bomb_of_aliases_is_refused_before_it_grows(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (folder / "x.yaml").write_text("\n".join(lines))
    assert "expand without end" in problems("x.yaml")[0]


def test_files_that_are_no_text_are_told(folder: Path) -> None:
    (folder / "x.yaml").write_bytes("a: ä".encode("utf-16"))
    assert problems("x.yaml") == ["x.yaml: not UTF-8 text (byte 0): save it as UTF-8"]
    (folder / "y.yaml").write_bytes(b"#" * 1_000_001)
    assert problems("y.yaml") == ["y.yaml: larger than 1,000,000 bytes: not a recipe or cluster file"]


def test_an_unknown_recipe_or_cluster_names_the_nearest() -> None:
    known = ", ".join(shipped("recipes"))
    assert problems("digts", "lap") == [
        "no cluster is called 'lap'. Did you mean laptop? Allowed: laptop, one-node-8gpu, slurm-example, "
        "this-machine. Or give a path.",
        f"no recipe is called 'digts'. Did you mean digits? Allowed: {known}. Or give a path.",
    ]


def test_overrides_win_over_the_file_and_the_file_over_its_base(folder: Path) -> None:
    (folder / "mine.yaml").write_text("base: digits\nname: mine\nbatch: {global_batch: 64}\n")
    loaded = load("mine.yaml", "laptop", ["epochs=3", "data.train_transforms.0.padding=2"])
    recipe = loaded.recipe
    assert (recipe.name, recipe.epochs, recipe.batch.global_batch, recipe.batch.micro_batch) == ("mine", 3, 64, 32)
    assert recipe.data.train_transforms[0].model_dump() == {"name": "random_crop", "padding": 2}
    tree = loaded.recipe_tree
    assert tree.origin(("epochs",)) == "command line, epochs=3"
    assert tree.origin(("batch", "global_batch")) == "mine.yaml:3:9"
    assert tree.origin(("batch", "micro_batch")).startswith("digits.yaml (shipped):")


def test_choosing_another_optimizer_drops_the_settings_of_the_base(folder: Path) -> None:
    (folder / "mine.yaml").write_text("base: digits\noptimizer: {name: sgd, base_learning_rate: 0.1}\n")
    optimizer = load("mine.yaml", "laptop").recipe.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.scaling) == ("sgd", 0.0, "linear")


def test_a_name_alone_stands_for_a_choice() -> None:
    recipe = load("digits", "laptop", ["schedule=constant", "schedule.warmup=1", "precision=bf16"]).recipe
    assert (recipe.schedule.name, recipe.schedule.warmup, recipe.precision.name) == ("constant", 1.0, "bf16")


@pytest.mark.parametrize("override", ["epochs", "=3", "a..b=1", "name.x.y=1", "data.train_transforms.7.padding=1"])
def test_a_misshapen_override_is_told(override: str) -> None:
    assert problems("digits", "laptop", override)[0].startswith("command line, ")


def test_environment_variables_are_replaced_where_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", "/big")
    assert load("digits", "laptop", ["data.path=${env:DATA_ROOT}/digits"]).recipe.data.path == "/big/digits"
    assert load("digits", "laptop", ["cluster.environment.X=${env:DATA_ROOT}"]).cluster.environment == {"X": "/big"}


@pytest.mark.parametrize("value", ["a b", "x\\ny", "$(id)", "`id`", "a'b", "a;b"])
def test_words_for_the_scheduler_cannot_carry_shell(value: str) -> None:
    with pytest.raises(ConfigError, match="use letters, digits"):
        load("digits", "slurm-example", [f'cluster.backend.partition="{value}"'])


def test_the_peak_learning_rate_follows_the_batch_by_the_named_rule() -> None:
    def peak(scaling: str) -> float:
        optimizer = load("digits", "laptop", [f"optimizer.scaling={scaling}"]).recipe.optimizer
        return optimizer.peak_learning_rate(1024) / optimizer.base_learning_rate

    assert [peak(scaling) for scaling in ("none", "linear", "sqrt")] == [1.0, 4.0, 2.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer={name: sgd, base_learning_rate: 1, nesterov: true, momentum: 0}",
            "nesterov: true needs a momentum",
        ),
        (
            "data.train_transforms=[{name: random_resized_crop, scale: [1, 0.5]}]",
            "write [smallest, largest], at most 1",
        ),
        ("model.options={width:3}", "'width:3': not the name of an argument (write a space after the colon"),
        ("data.train_transforms=[{name: random_resized_crop, ratio: [2, 1]}]", "write [smallest, largest]"),
    ],
)
def test_settings_that_contradict_each_other_are_told(override: str, message: str) -> None:
    (told,) = problems("digits", "laptop", override)
    assert message in told
    assert told.startswith(f"command line, {override}: {override.partition('=')[0]}")
