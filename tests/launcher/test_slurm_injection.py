"""No text of a cluster file becomes shell code: 30 strings in every field that takes text, and in every path."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.slurm import prepare_folder, render
from support.slurm_jail import run_script

STRINGS = [
    "a b", "it's", '"', "'", "\\", "$(touch canary)", "`touch canary`", "'; touch canary; '", '"; touch canary; "',
    "a; touch canary", "a && touch canary", "| touch canary", "& touch canary &", "> canary", "<(touch canary)",
    "${IFS}touch${IFS}canary", "$HOME", "~", "*", "?[a-z]", "{a,b}", "!!", "#SETTINGS", "#SBATCH --wrap=canary", "%j",
    "-n", "--wrap=touch canary", "x\ntouch canary", "x\r\n#SBATCH --wrap=canary", "ünïcödé € ж", "a=b", "'$(touch canary)'",
]  # fmt: skip
BASE = {
    "name": "hostile", "backend": {"name": "slurm", "container": {"name": "apptainer", "image": "x"}}, "cache": {},
}  # fmt: skip
PYXIS = {**BASE, "backend": {"name": "slurm", "container": {"name": "pyxis", "image": "x"}}}


def text_fields() -> list[tuple[str, ...]]:
    """Return the path of every field of a cluster file with backend slurm that takes text; "[]" and "{}" are items."""
    schema = Cluster.model_json_schema()
    found = list(_text_fields(schema, schema["$defs"], ()))
    return [path for path in found if path[:1] != ("backend",) or path[1] == "Slurm"]


def _text_fields(
    schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        inner = (*path, name) if path in (("backend",), ("backend", "Slurm", "container")) else path
        yield from _text_fields(definitions[name], definitions, inner)
    elif "properties" in schema:
        for name, field in schema["properties"].items():
            yield from _text_fields(field, definitions, (*path, name))
    elif schema.get("type") == "string" and "const" not in schema and "enum" not in schema:
        yield path
    elif schema.get("type") == "array":
        yield from _text_fields(schema["items"], definitions, (*path, "[]"))
    for values in schema.get("patternProperties", {}).values():
        yield from _text_fields(values, definitions, (*path, "{}"))
    for one in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        yield from _text_fields(one, definitions, path)


def with_text(path: tuple[str, ...], text: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster file with the text at the path."""
    changed: dict[str, Any] = json.loads(json.dumps(tree))
    place, names = changed, [name for name in path if name not in ("Slurm", "Pyxis", "Apptainer", "[]", "{}")]
    for name in names[:-1]:
        place = place[name]
    value: Any = [text] if path[-1] == "[]" else {"VALUE": text} if path[-1] == "{}" else text
    place[names[-1]] = value
    return changed


def loaded(tree: dict[str, Any], folder: Path) -> Cluster | None:
    """Return the cluster, None where the text is refused."""
    (folder / "cluster.yaml").write_text(json.dumps(tree, ensure_ascii=False))
    try:
        return load("imagenet-resnet50", str(folder / "cluster.yaml")).cluster
    except ConfigError:
        return None


def test_every_kind_of_text_field_is_tried() -> None:
    fields = {".".join(path) for path in text_fields()}
    assert {"name", "environment.{}", "cache.folder", "backend.Slurm.partition", "backend.Slurm.modules.[]"} <= fields
    assert {f"backend.Slurm.container.{kind}.image" for kind in ("Pyxis", "Apptainer")} <= fields
    assert len(fields) >= 16
    assert len(STRINGS) >= 30


@pytest.mark.parametrize("number", range(len(STRINGS)))
def test_no_text_in_a_cluster_file_or_a_path_is_run(number: int, tmp_path: Path) -> None:
    text = STRINGS[number]
    folder = tmp_path / "project" / text.replace("/", "-")
    folder.mkdir(parents=True)
    python = tmp_path / "venv" / text / "python"
    run = RunDir(tmp_path / "runs" / text)
    refused = 0
    for tree in (BASE, PYXIS):
        whole = tree
        kind = "Apptainer" if tree is BASE else "Pyxis"
        for path in text_fields():
            if "container" in path and kind not in path:
                continue
            one = with_text(path, text, whole)
            if loaded(one, tmp_path) is None:
                refused += 1
            elif path[-1] != "python":  # the program that is run: the jail has it in a place of its own
                whole = one
        cluster = loaded(whole, tmp_path)
        assert cluster is not None
        recipe = load("imagenet-resnet50", "laptop").recipe
        job = Job(recipe=recipe, cluster=cluster, working_folder=str(folder), data_fingerprint="", version="1")
        jail = tmp_path / kind
        with mock.patch.object(sys, "executable", str(python)):
            try:
                script = render(job, run, ["--checkpoint", text]).script
            except ConfigError:
                assert set(text) & set('\n\r"\\:,')  # control characters, and what sbatch and containers cannot be told
                continue
        assert script is not None
        header = script.partition("# -- values")[0].splitlines()
        assert all(line.startswith("#") or not line for line in header)
        prepare_folder(job, run)
        inside = jail / "programs" / "python3"
        done = run_script(script, [str(run.job)], jail, inside)
        assert (done.code, done.errors) == (0, "")
        assert done.calls["python"][-3:] == [str(run.job), "--checkpoint", text]
        assert done.calls["folder"] == [f"{folder}\n"]
        value = job.cluster.environment.get("VALUE")
        assert f"VALUE={value}" in done.calls["environment"] or value is None
    assert refused > 0
    assert list(tmp_path.rglob("canary")) == []
    assert not Path("canary").exists()


def test_without_a_container_the_interpreter_of_any_folder_is_started(tmp_path: Path) -> None:
    for number, text in enumerate(text for text in STRINGS if not set(text) & set('\n\r"\\')):
        folder = tmp_path / str(number) / text
        (folder / "run").mkdir(parents=True)
        tree = {"name": "plain", "backend": "slurm", "environment": {"VALUE": text}}
        cluster = loaded(tree, tmp_path)
        assert cluster is not None
        recipe = load("imagenet-resnet50", "laptop").recipe
        job = Job(recipe=recipe, cluster=cluster, working_folder=str(folder), data_fingerprint="", version="1")
        run = RunDir(folder / "run")
        with mock.patch.object(sys, "executable", str(folder / "python")):
            script = render(job, run).script
        assert script is not None
        prepare_folder(job, run)
        done = run_script(script, [str(run.job)], tmp_path / str(number) / "jail", folder / "python")
        assert (done.code, done.errors, done.calls["python"][-1]) == (0, "", str(run.job))
        assert f"VALUE={text}" in done.calls["environment"]
    assert list(tmp_path.rglob("canary")) == []
