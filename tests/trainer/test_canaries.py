"""S1: nothing that is read is run. Each vector carries a call that makes a folder called canary; none must be there.

The poison is a pickle (as an attacker writes it), a YAML tag, a shell command or a PostScript program; it is put where
megabatch reads something, and the real readers and commands are let loose on it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from megabatch.configs.json_files import read_json
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.data.decode import decode_image
from megabatch.data.indexing import index_shards, verify
from megabatch.data.stream import StreamReader
from megabatch.data.tar_index import index_tar, write_index
from megabatch.launcher.cli import app
from megabatch.launcher.hosts.messages import decoded
from megabatch.trainer import checkpoint
from megabatch.trainer.tensor_files import describe_file
from support.bad_inputs.shards import tar
from support.runs import Workplace, environment
from support.shards import dataset


class Planted:
    """Unpickled, it makes the folder."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("canary",)


PICKLE = pickle.dumps(Planted(), protocol=2)
SHELL = "mkdir canary"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%mkdir canary) (w) file\nshowpage\n"
MEMBERS: dict[str, bytes] = {
    **{f"a.{name}": PICKLE for name in ("pyd", "pkl", "pickle", "pth", "pt", "meta.pyd", "npy", "npz", "ten", "json", "txt")},
    **{f"b.{name}.gz": gzip.compress(PICKLE) for name in ("pyd", "pkl", "pth", "json")},
    "c.cls": PICKLE, "c.jpg": PICKLE, "c.png": PICKLE, "d.jpg": POSTSCRIPT, "e.yaml": b"!!python/object/apply:os.mkdir [canary]",
}  # fmt: skip
TAGS = (
    "!!python/object/apply:os.mkdir [canary]", "!!python/object/new:os.mkdir [canary]", "!!python/name:os.mkdir canary",
    "!!python/module:this canary", "!!python/object:test_canaries.Planted {}", "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [canary]",
)  # fmt: skip
COMMANDS = (
    f"pipe:{SHELL}", f"data/{{x,pipe:{SHELL}}}.tar", f"pipe:{SHELL}::data", "list.json", "_info.json", f"$({SHELL})", f"`{SHELL}`",
)  # fmt: skip


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Planted()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _zip(content: bytes) -> bytes:
    """Return what torch.save writes, with this for its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def _saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _persistent() -> bytes:
    """A pickle that asks for its tensor by an id that is an object itself."""

    class Asking(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", Planted(), "0", "cpu", 1) if isinstance(obj, bytearray) else None

    buffer = io.BytesIO()
    Asking(buffer, protocol=2).dump({"a": bytearray(1)})
    return buffer.getvalue()


def _weights() -> dict[str, bytes]:
    header = json.dumps(
        {"__metadata__": {"canary": PICKLE.hex()}, "a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}
    )
    contents = {
        "zip": _zip(PICKLE), "object beside tensors": _saved({"a": torch.ones(2), "b": Planted()}), "persistent": _zip(_persistent()),
        "legacy": _saved({"a": Planted()}, _use_new_zipfile_serialization=False), "raw": PICKLE, "npy": _npy(),
        "legacy ids": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + PICKLE,
    }  # fmt: skip
    found = {f"{what}.{kind}": raw for what, raw in contents.items() for kind in ("pt", "pth", "bin")}
    return {
        **found,
        "raw.safetensors": PICKLE,
        "header.safetensors": len(header).to_bytes(8, "little") + header.encode() + bytes(4),
    }


WEIGHTS = _weights()
LOOKS_FOR_LIBRARIES = {"ldconfig", "gcc", "cc", "collect2", "ld", "objdump"}  # ctypes.util.find_library of libturbojpeg


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canaries")
    dataset(folder, {"train": 12})
    Workplace(folder).write()
    manifest = {"shardlist": [{"url": f"pipe:{SHELL}", "nsamples": 1}]}
    (folder / "list.json").write_text(json.dumps(manifest))
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": {"filenames": [f"pipe:{SHELL}"]}}}))
    return folder


@pytest.fixture(autouse=True)
def nothing_is_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    programs = place / "programs"  # what an image library might call
    programs.mkdir(exist_ok=True)
    for name in ("gs", "mkdir"):
        (programs / name).write_text(f'#!/bin/sh\n/bin/mkdir "{place}/canary"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(place)
    yield
    assert list(place.rglob("canary")) == []


def let_loose(action: Callable[[], object]) -> None:
    """Whatever it says to the poison, it must not run it."""
    with contextlib.suppress(Exception, SystemExit):
        action()


def command(*arguments: str) -> Callable[[], object]:
    return lambda: CliRunner().invoke(app, list(arguments))


def test_the_poison_works(place: Path) -> None:
    doses: list[Callable[[], object]] = [
        lambda: pickle.loads(PICKLE),
        lambda: torch.load(io.BytesIO(_zip(PICKLE)), weights_only=False),
        lambda: np.load(io.BytesIO(_npy()), allow_pickle=True),
        lambda: subprocess.run(SHELL, shell=True, check=True),
    ]
    for dose in doses:
        dose()
        (place / "canary").rmdir()


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_shards(tmp_path: Path, name: str) -> None:
    content = {"a.cls": b"0", "a.png": b"x", name: MEMBERS[name]} if name[0] == "a" else {name: MEMBERS[name]}
    if name[0] != "a":
        content = (
            {f"{name[0]}.cls": b"0", f"{name[0]}.png": b"x", **content}
            if name[0] in "be"
            else {"c.cls": b"0", "d.cls": b"0", **content}
        )
    path = tmp_path / "train-0.tar"
    path.write_bytes(tar(*content.items()))
    let_loose(lambda: verify(index_shards(tmp_path, None, lambda a, b: None), lambda a, b: None, decode=True))
    let_loose(lambda: StreamReader([str(path)], 0, 0, 1, 10).read(0))
    let_loose(lambda: decode_image(MEMBERS[name], 10**6))


@pytest.mark.parametrize(
    "name",
    [
        "dataset.json",
        "train-000000.idx",
        "classes.txt",
        "stats.json",
        "mask.json",
        "subset.txt",
        "weights.json",
        "weights.npy",
    ],
)
@pytest.mark.parametrize("raw", [PICKLE, _npy()], ids=["pickle", "npy"])
def test_files_beside_shards(place: Path, name: str, raw: bytes) -> None:
    own = place / "own"
    shutil.copytree(place / "data", own)
    (own / name).write_bytes(raw)
    chosen = {
        "stats.json": "data.normalize=auto", "mask.json": "data.mask=own/mask.json", "subset.txt": "data.subset=own/subset.txt",
        "weights.json": "data.sampling={name: weighted, file: own/weights.json}",
        "weights.npy": "data.sampling={name: weighted, file: own/weights.npy}",
    }.get(name, "seed=1")  # fmt: skip
    let_loose(command("plan", "recipe.yaml", "data.path=own", chosen))
    let_loose(command("data", "verify", "own"))
    let_loose(command("data", "index", "own"))
    shutil.rmtree(own)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml(place: Path, tag: str) -> None:
    (place / "x.yaml").write_text(f"name: {tag}\n")
    (place / "run").mkdir(exist_ok=True)
    (place / "run" / "job.yaml").write_text(f"recipe: {tag}\n")
    let_loose(command("plan", "x.yaml"))
    let_loose(command("plan", "recipe.yaml", "--cluster", "x.yaml"))
    let_loose(command("plan", "recipe.yaml", f"model.options={{a: {tag}}}"))
    let_loose(command("launch", "--resume", "run"))
    let_loose(command("cluster", "import", "x.yaml"))


@pytest.mark.parametrize("path", COMMANDS)
def test_commands_where_data_are_named(place: Path, path: str) -> None:
    let_loose(command("plan", "recipe.yaml", f"data.path={path}"))
    let_loose(command("data", "index", path))
    let_loose(lambda: load("recipe.yaml", "laptop", [f"cluster.environment={{A: '{path}'}}"]))


@pytest.mark.parametrize("forced", ["", "1"], ids=["", "with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(place: Path, monkeypatch: pytest.MonkeyPatch, name: str, forced: str) -> None:
    from megabatch.launcher.prepare import prepare
    from megabatch.trainer.pretrained.read import weights_to_begin_with

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    file = f"weights.{name.rpartition('.')[2]}"
    (place / file).write_bytes(WEIGHTS[name])
    let_loose(lambda: weights_to_begin_with(prepare("recipe.yaml", "laptop", [f"model.pretrained={file}"]).job))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json", ".metadata", "__0_0.distcp"]
)
def test_checkpoints(tmp_path: Path, name: str) -> None:
    """Put in place by somebody who can write the manifest, too."""
    saved = checkpoint.save(RunDir(tmp_path), 1, checkpoint.Snapshot({"a": torch.ones(3)}, {}, {"step": 1}))
    (saved / name).write_bytes(PICKLE)
    if name != "manifest.json":
        manifest = json.loads((saved / "manifest.json").read_text())
        (saved / "manifest.json").write_text(json.dumps({**manifest, name: describe_file(saved / name)}))
        assert checkpoint.damage(saved) is None
    let_loose(lambda: checkpoint.load(saved))
    let_loose(lambda: checkpoint.load_network(saved))
    let_loose(lambda: checkpoint.chosen(RunDir(tmp_path), "best"))


@pytest.mark.parametrize(
    "name",
    [
        "ranks.json",
        "result.json",
        "slurm.json",
        "outputs.json",
        "metrics.jsonl",
        "wandb_id",
        "attempts.jsonl",
        "bad-steps.jsonl",
        "starts.jsonl",
        "rank-history.jsonl",
        "details-test.json",
    ],
)
def test_what_a_run_left_behind(place: Path, name: str) -> None:
    run = place / "left"
    shutil.rmtree(run, ignore_errors=True)
    let_loose(command("launch", "recipe.yaml", "--dry-run", "--write", "left"))
    assert (run / "job.yaml").is_file()
    (run / name).write_bytes(PICKLE)
    for words in (
        ("status", "left"),
        ("logs", "left"),
        ("eval", "left", "--split", "nothing"),
        ("launch", "--resume", "left", "--dry-run"),
    ):
        let_loose(command(*words))
    let_loose(lambda: read_json(run / name))


def test_messages_between_hosts() -> None:
    for raw in (
        PICKLE,
        b"megabatch:" + PICKLE,
        b"megabatch:" + json.dumps({"__reduce__": ["os.mkdir", ["canary"]]}).encode(),
    ):
        let_loose(lambda raw=raw: decoded(raw))


def test_there_are_forty_vectors() -> None:
    assert len(MEMBERS) + 16 + 5 * len(TAGS) + 3 * len(COMMANDS) + 2 * len(WEIGHTS) + 6 + 11 + 3 >= 40


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_training_over_a_poisoned_data_set_starts_no_program(tmp_path: Path) -> None:
    """The pickles are in the shards, under indexes that were made when they had another name."""
    described = dataset(tmp_path, {"train": 12})
    place = Workplace(tmp_path)
    place.write()
    for shard in described.splits[0].shards:
        path = described.folder / shard.file
        whole, samples = path.read_bytes(), index_tar(path)
        members = [(m.name, whole[m.offset : m.offset + m.size]) for sample in samples for m in sample.members]
        poisoned = [
            [*members[:2], (f"{samples[0].key}.{name}", PICKLE), (f"{samples[0].key}.npy", _npy()), *members[2:]]
            for name in ("pkx", "pkl")
        ]
        path.write_bytes(tar(*poisoned[0]))
        write_index(index_tar(path), path.with_suffix(".idx"))
        path.write_bytes(tar(*poisoned[1]))
    text = (described.folder / "dataset.json").read_text()
    for shard in described.splits[0].shards:
        text = text.replace(f'"bytes": {shard.bytes}', f'"bytes": {(described.folder / shard.file).stat().st_size}')
    (described.folder / "dataset.json").write_text(text)
    run_dir = place.job("run", 1, "epochs=1")
    log = tmp_path / "calls"
    traced = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve",
        "-o",
        str(log),
        sys.executable,
        "-m",
        "megabatch.trainer",
        str(run_dir.job),
    ]
    done = subprocess.run(traced, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(run_dir.result.read_text())["outcome"] == "finished"
    assert list(tmp_path.rglob("canary")) == []
    started = re.findall(r'execve\("[^"]*?([^"/]+)", .* = 0$', log.read_text(), re.MULTILINE)
    assert started[0].startswith("python")
    assert set(started[1:]) <= LOOKS_FOR_LIBRARIES, started
