"""Paths and run folders: what is not there, is something else, or was damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from support.bad_inputs.bad import LAUNCH, Bad, X, override, written


def _loop(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")


def _run(content: str | bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "run").mkdir()
        written("run/job.yaml", content)(folder)

    return make


OF_PATHS = [
    override("data that are not there", "data.path=nowhere", "nowhere: no such folder. `megabatch data import"),
    override("data that are a file", "data.path=recipe.yaml", "recipe.yaml"),
    override("data without a description", "data.path=images", "dataset.json: missing. `megabatch data index"),
    override("an empty path", "data.path=''", "'' is no path and no URL"),
    override("a path with a NUL", 'data.path="a\\0b"', "a NUL"),
    override("a path of 10,000 characters", "data.path=" + "a" * 10_000, "aaa"),
    Bad("path: a loop of links", ("loop",), (*LAUNCH, "data.path=loop"), _loop),
    override("no permission", "data.path=/proc/1/map_files/x", "/proc/1/map_files/x"),
    override("a subset that is not there", "data.subset=nowhere.txt", "nowhere.txt"),
    override("a subset that is a folder", "data.subset=images", "images"),
    override("a mask that is none", "data.mask=recipe.yaml", "recipe.yaml: not a mask: write"),
    override(
        "a quantization that is not known",
        "quantization=ternry",
        "quantization: 'ternry' is not known. Did you mean ternary?",
    ),
    override("levels without their count", "quantization=levels", "quantization.count: missing"),
    override("one level", "quantization={name: levels, count: 1}", "quantization.count"),
    override(
        "a layer to keep that is not there",
        "quantization={name: ternary, keep: [head]}",
        "quantization.keep: 'head' fits no",
    ),
    override(
        "nothing left to quantize",
        "quantization={name: ternary, keep: ['3']}",
        "every convolution and linear layer is kept",
    ),
    override("weights that are not there", "model.pretrained=nowhere.safetensors", "no such file or folder"),
    override("weights that are a recipe", "model.pretrained=recipe.yaml", "weights are in a file of type"),
    override("weights in a folder without any", "model.pretrained=images", "is no run folder and no checkpoint"),
    override(
        "a DeepSpeed file that is not there",
        "engine={name: deepspeed, config_file: nowhere.json}",
        "engine.config_file",
    ),
    Bad(
        "path: a DeepSpeed file that is no JSON",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        written("x.json", "{"),
    ),
    Bad(
        "path: a DeepSpeed file 100,000 deep",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        written("x.json", '{"a":' * 100_000),
    ),
    Bad(
        "path: a DeepSpeed file in Latin-1",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        written("x.json", b'{"a": "\xe4"}'),
    ),
    Bad(
        "path: statistics 100,000 deep",
        ("stats.json is not of format",),
        (*LAUNCH, "data.normalize=auto", "data.path=own"),
        lambda folder: (
            shutil.copytree(folder / "data", folder / "own"),
            written("own/stats.json", "[" * 100_000)(folder),
        ),
    ),
    Bad(
        "path: the run folder is a file",
        ("recipe.yaml: is not an empty folder: choose another --run-dir",),
        (*LAUNCH, "--run-dir", "recipe.yaml"),
    ),
    Bad("path: the run folder is not empty", ("images: is not an empty folder",), (*LAUNCH, "--run-dir", "images")),
    Bad(
        "path: a run folder for a dry run",
        ("--run-dir names", "use --write RUN_DIR"),
        (*LAUNCH, "--run-dir", "a", "--dry-run"),
    ),
    Bad("path: a run to write below a file", ("recipe.yaml/a",), (*LAUNCH, "--dry-run", "--write", "recipe.yaml/a")),
    Bad(
        "path: a run with a name that is too long",
        ("File name too long",),
        (*LAUNCH, "--dry-run", "--write", "a" * 300),
    ),
    Bad("path: the recipe is a folder", ("x.yaml",), X, lambda folder: (folder / "x.yaml").mkdir()),
    Bad("run: not there", ("nowhere: is no run folder: it has no job.yaml",), ("launch", "--resume", "nowhere")),
    Bad("run: none of that recipe", ("has no run of the recipe digits",), ("launch", "--resume", "latest", "digits")),
    Bad("run: an empty job", ("run/job.yaml: ", "missing"), ("launch", "--resume", "run"), _run("")),
    Bad("run: a job that is no YAML", ("run/job.yaml:1:1: not valid YAML",), ("eval", "run"), _run("\t")),
    Bad("run: a job that is no text", ("run/job.yaml: not UTF-8",), ("eval", "run"), _run(b"\xff")),
    Bad(
        "ensemble: a member that is no run", ("data: is no run folder",), ("ensemble", "data", "data", "--output", "e")
    ),
    Bad(
        "ensemble: weights that are no numbers",
        ("--weights 1;2: write uniform",),
        ("ensemble", "a", "b", "--output", "e", "--weights", "1;2"),
    ),
    Bad("report: of what is no run", ("data: is no run folder: it has no job.yaml",), ("report", "data")),
    Bad("report: no run to be the latest", ("runs: has no run: start one",), ("report",)),
    Bad("report: a job that is no YAML", ("run/job.yaml:1:1: not valid YAML",), ("report", "run"), _run("\t")),
    Bad("compare: what is no run", ("data: is no", "nowhere: is no"), ("compare", "data", "nowhere")),
    Bad("compare: one run", ("run: is one run: name two or more",), ("compare", "run"), _run("a: 1")),
    Bad("fuse: what is no run", ("data: is no run folder",), ("fuse", "data", "--share-until", "1")),
    Bad(
        "run: a job with an object of Python",
        ("run/job.yaml:1:7: the tag",),
        ("launch", "--resume", "run"),
        _run("name: !!python/object/apply:os.system [touch canary]"),
    ),
    Bad(
        "run: a job of a later version",
        ("run/job.yaml:1:1: format: 'megabatch-job-9'",),
        ("launch", "--resume", "run"),
        _run("format: megabatch-job-9\n"),
    ),
]
