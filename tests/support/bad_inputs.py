"""Bad inputs as a list: what a user writes, what stands in the message, and how the command is called.

Each is tried in a folder of its own, which has recipe.yaml, network.py, data (30 training samples, 3 classes, 3 shards)
and images (tests/launcher/test_bad_inputs.py).
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.runs import RECIPE

LAUNCH = ("launch", "recipe.yaml")
X = ("launch", "x.yaml")
CLUSTER = ("launch", "recipe.yaml", "--cluster", "x.yaml")
INDEX = ("data", "index", "shards")


@dataclass(frozen=True)
class Bad:
    """One mistake: `told` is what must stand in the message, where it is and what to do; `make` writes the files."""

    what: str
    told: tuple[str, ...]
    arguments: tuple[str, ...] = LAUNCH
    make: Callable[[Path], object] | None = None
    variables: dict[str, str | None] = field(default_factory=dict)  # None: not set


def _written(name: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def _recipe(what: str, content: str | bytes, *told: str) -> Bad:
    return Bad(f"recipe: {what}", told, X, _written("x.yaml", content))


def _with(what: str, old: str, new: str, *told: str) -> Bad:
    assert old in RECIPE
    return _recipe(what, RECIPE.replace(old, new, 1), *told)


def _cluster(what: str, content: str, *told: str) -> Bad:
    return Bad(f"cluster: {what}", told, CLUSTER, _written("x.yaml", content))


def _override(what: str, override: str, *told: str) -> Bad:
    return Bad(f"override: {what}", told, (*LAUNCH, override))


def _aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))])


OF_YAML = [
    _recipe("empty", "", "x.yaml: name: missing. Add it at the top level"),
    _recipe("only a comment", "# nothing\n", "x.yaml: name: missing"),
    _recipe("a list", "- epochs\n", "x.yaml: the top level is not a mapping: write `key: value` lines"),
    _recipe("a text", "epochs\n", "x.yaml: the top level is not a mapping"),
    _recipe("a number", "3\n", "x.yaml: the top level is not a mapping"),
    _recipe("a tab", "\tname: a\n", "x.yaml:1:1: not valid YAML: found character '\\t'"),
    _recipe("an open bracket", "name: [a,\n", "x.yaml:2:1: not valid YAML"),
    _recipe("two documents", "name: a\n---\nname: b\n", "x.yaml:2:1: not valid YAML: but found another document"),
    _recipe("a key twice", RECIPE + "epochs: 3\n", "x.yaml:18:1: the key epochs is here twice: keep one"),
    _with("an unknown key", "epochs: 2", "epoch: 2", "x.yaml:2:1: epoch: unknown key. Did you mean epochs?"),
    _with("an unknown key below", "weight_decay", "wieght_decay", "x.yaml:14", "Did you mean weight_decay?"),
    _with("a text for a number", "epochs: 2", "epochs: two", "x.yaml:2:1: epochs: 'two': should be a valid integer"),
    _with("a quoted number", "epochs: 2", "epochs: '2'", "x.yaml:2:1: epochs: '2': should be a valid integer"),
    _with("a quoted fraction", "0.05", "'5e-2'", "base_learning_rate: '5e-2': should be a valid number"),
    _with("a fraction for a count", "epochs: 2", "epochs: 2.5", "x.yaml:2:1: epochs: 2.5: should be a valid integer"),
    _with(
        "a word of YAML 1.1 for a truth value",
        "sample_log: true",
        "sample_log: yes",
        "x.yaml:17:12: tracking.sample_log: 'yes': should be",
    ),
    _with("on for a truth value", "sample_log: true", "sample_log: on", "sample_log: 'on': should be a valid boolean"),
    _with("a truth value for a number", "epochs: 2", "epochs: true", "x.yaml:2:1: epochs: True: should be"),
    _with("an open list", "optimizer: {", "optimizer: [{", "x.yaml:15:1: not valid YAML"),
    _with(
        "a list where a mapping is",
        "{name: sgd, base_learning_rate: 0.05, scaling: none, weight_decay: 1e-3}",
        "[sgd]",
        "x.yaml:14:1: optimizer",
    ),
    _with("a mapping for a number", "epochs: 2", "epochs: {a: 1}", "x.yaml:2:1: epochs: {'a': 1}: should be"),
    _with("nothing for a number", "epochs: 2", "epochs:", "x.yaml:2:1: epochs: None: should be"),
    _with("a missing section", 'model: {name: "network:small"}\n', "", "x.yaml:1:1: model: missing. Add it"),
    _with("not a number", "0.05", ".nan", "base_learning_rate: nan: should be"),
    _with(
        "an option that is not a number",
        '"network:small"',
        '"network:small", options: {widths: [8, .inf]}',
        "inf is no number that can be used here",
    ),
    _with("an infinite number", "0.05", ".inf", "base_learning_rate: inf: should be a finite number"),
    _with("a negative batch", "global_batch: 20", "global_batch: -20", "global_batch: -20: should be greater than 0"),
    _with("a batch of 0", "global_batch: 20", "global_batch: 0", "global_batch: 0: should be greater than 0"),
    _with("a learning rate of 0", "0.05", "0", "base_learning_rate: 0", "greater than 0"),
    _with("a negative learning rate", "0.05", "-1", "base_learning_rate: -1", "greater than 0"),
    _with("epochs of 0", "epochs: 2", "epochs: 0", "epochs: 0: should be greater than 0"),
    _with("a number without end", "epochs: 2", "epochs: " + "9" * 5000, "x.yaml"),
    _with("more epochs than time", "epochs: 2", "epochs: 1000000000000000000000", "x.yaml"),
    _recipe("an object of Python", "name: !!python/object:os.system x\n", "x.yaml:1:7: the tag", "write a plain value"),
    _recipe("a call of Python", "name: !!python/object/apply:os.system ['touch canary']\n", "x.yaml:1:7"),
    _recipe("a tag of its own", "name: !danger x\n", "x.yaml:1:7: the tag !danger is not allowed"),
    _recipe(
        "a tag on a list", RECIPE.replace("train_transforms:", "train_transforms: !!set", 1), "x.yaml:8:21: the tag"
    ),
    _recipe("a tag that does not fit", "name: !!bool x\n", "x.yaml:1:7: 'x' is no value of the tag"),
    _recipe("a bomb of aliases", _aliases(), "x.yaml", "expand without end: write the values out"),
    _recipe("an alias in itself", "a: &a [*a]\n", "x.yaml:1:4: aliases (&name, *name) expand without end"),
    _recipe("values 3,000 deep", "a: " + "[" * 3000, "x.yaml:1", "values inside values, more than 40 deep"),
    _recipe(
        "mappings 400 deep",
        "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 400)),
        "x.yaml:21:21: not valid YAML: values inside values",
    ),
    _recipe("a list for a key", "? [a, b]\n: c\n", "x.yaml:1:3: a list or mapping as a key: write a plain word"),
    _recipe("a control character in a key", '"a\\e[2J": 1\n', "x.yaml:1:1: a key with control characters"),
    _recipe("a key of 10,000 characters", "a" * 10_000 + ": 1\n", "x.yaml:1"),
    _recipe("half a character", 'name: "\\ud800"\n', "x.yaml:1:7"),
    _recipe("a NUL", "name: a\0b\n", "x.yaml"),
    _recipe("UTF-16", "name: ä\n".encode("utf-16"), "x.yaml: not UTF-8 text (byte 0): save it as UTF-8"),
    _recipe("Latin-1", "name: ä\n".encode("latin-1"), "x.yaml: not UTF-8 text (byte 6): save it as UTF-8"),
    _recipe("a photograph", b"\xff\xd8\xff\xe0" + bytes(100), "x.yaml: not UTF-8 text"),
    _recipe("1 MB and more", b"#" * 1_000_001, "x.yaml: larger than 1,000,000 bytes: not a recipe or cluster file"),
    _recipe("its own base", "base: x.yaml\n", "x.yaml:1:1: base: x.yaml leads back to this file: break the circle"),
    _recipe("a base that is not there", "base: nowhere.yaml\n", "x.yaml:1:1: base: no such recipe file"),
    _recipe("two bases", "base: [digits, cifar10]\n", "x.yaml:1:1: base: ['digits', 'cifar10']: write the name"),
    _with(
        "an unknown choice", "name: sgd", "name: sdg", "x.yaml:14:1: optimizer: 'sdg' is not known. Did you mean sgd?"
    ),
    _with("a choice without a name", "name: cosine, ", "", "x.yaml:15", "schedule", "has no name"),
    _with("a text where ${env:} is not replaced", "epochs: 2", "epochs: ${env:HOME}", "is not replaced in this key"),
    _with("a variable that is not set", "path: data", "path: ${env:MEGABATCH_UNSET}/a", "x.yaml:4:3", "export it"),
]

NAMES = {
    "a line feed": "a\nb", "$()": "$(touch canary)", "a backtick": "`touch canary`", "a quote": "it's",
    "10 kB": "a" * 10_000, "a look-alike": "\u0430dam", "a space": "a b", "a slash": "a/b", "a dash": "--wrap=x", "nothing": "",
}  # fmt: skip


def _slurm(**backend: object) -> str:
    return json.dumps({"name": "a", "backend": {"name": "slurm", **backend}})


OF_TEXTS = [
    *(
        Bad(
            f"name of a recipe: {what}",
            ("x.yaml:1:1: name: ", "use letters, digits"),
            X,
            _written("x.yaml", RECIPE.replace("name: tiny", f"name: {json.dumps(text)}", 1)),
        )
        for what, text in NAMES.items()
    ),
    *(_cluster(f"name with {what}", json.dumps({"name": text}), "x.yaml:1:2: name: ") for what, text in NAMES.items()),
    *(
        _cluster(f"partition with {what}", _slurm(partition=text), "x.yaml:1:", "backend.partition: ")
        for what, text in NAMES.items()
        if what not in ("a slash", "a dash")
    ),
    *(
        _cluster(f"variable called {what}", json.dumps({"name": "a", "environment": {text: "1"}}), "x.yaml:1:")
        for what, text in NAMES.items()
    ),
    _cluster(
        "a line feed in the value of a variable for Slurm",
        json.dumps({"name": "a", "backend": "slurm", "environment": {"A": "a\nb"}}),
        "cluster.environment.A",
        "control",
    ),
    *(
        _cluster(
            f"a NUL in {where}", json.dumps({"name": "a", **values}), "x.yaml:1:", "a text with a NUL", "leave it out"
        )
        for where, values in (
            ("a name", {"name": "a\0b"}),
            ("a variable", {"environment": {"A": "a\0b"}}),
            ("a partition", {"backend": {"name": "slurm", "partition": "a\0b"}}),
            ("a folder", {"cache": {"folder": "a\0b"}}),
        )
    ),
    _cluster("no nodes", "name: a\nnodes: 0\n", "x.yaml:2:1: nodes: 0: should be greater than 0"),
    _cluster("no ranks", "name: a\nprocesses_per_node: 0\n", "x.yaml:2:1: processes_per_node: 0: should be"),
    _cluster("a device that there is not", "name: a\ndevice: tpu\n", "x.yaml:2:1: device: 'tpu'", "Allowed: cpu, cuda"),
    _cluster("a backend that there is not", "name: a\nbackend: slrum\n", "x.yaml:2:1: backend", "Did you mean slurm?"),
    _cluster(
        "a token", "name: a\nenvironment: {MY_TOKEN: planted}\n", "cluster.environment.MY_TOKEN", "Instead: set it"
    ),
    _cluster("more hosts than nodes", "name: a\nbackend: {name: ssh, hosts: [a, b]}\n", "x.yaml:2:1", "Write nodes: 2"),
    _cluster("a host that is an option", "name: a\nbackend: {name: ssh, hosts: [-oProxyCommand=x]}\n", "x.yaml:2:"),
    _cluster(
        "a hostfile that is not there", "name: a\nbackend: {name: ssh, hostfile: nowhere}\n", "nowhere", "HOST slots=N"
    ),
    _cluster("an endpoint without a port", "name: a\nbackend: {name: torchrun, endpoint: a}\n", "write HOST:PORT"),
    Bad("cluster: not there", ("no cluster is called 'nowhere'", "Or give a path"), (*LAUNCH, "--cluster", "nowhere")),
    Bad(
        "override: a path of a model with a shell in it",
        ("command line, model.name=", "write timm/NAME"),
        (*LAUNCH, "model.name=$(touch canary)"),
    ),
    _override("no key", "=3", "command line, =3: not an override: write key.sub=value"),
    _override("an empty step", "data..path=a", "command line, data..path=a: not an override"),
    _override("an unknown key", "epoch=3", "command line, epoch=3: epoch: unknown key. Did you mean epochs?"),
    _override("two lines", "epochs=3\nseed: 4", "command line, epochs=3", "more than one value: write one override"),
    _override("broken YAML", "epochs=[", "command line, epochs=[", "not valid YAML"),
    _override("a part of a number", "epochs.a=1", "command line, epochs.a=1"),
    _override(
        "a place in a list that is not there",
        "data.train_transforms.9.padding=1",
        "command line, data.train_transforms.9",
    ),
    Bad("two recipes", ("one recipe is needed, got recipe.yaml, other.yaml",), (*LAUNCH, "other.yaml")),
    Bad("no recipe", ("one recipe is needed, none was given", "`megabatch config list`"), ("launch",)),
    Bad(
        "a recipe that there is not",
        ("no recipe is called 'digts'. Did you mean digits?", "Or give a path"),
        ("launch", "digts"),
    ),
    Bad("a recipe of 300 characters", ("error: aaa", "no such recipe file"), ("launch", "a" * 300 + ".yaml")),
    Bad("a recipe of 10,000 characters", ("no recipe is called 'aaa", "Or give a path"), ("launch", "a" * 10_000)),
    Bad("a recipe with a NUL", ("error: a\\x00.yaml: no such recipe file",), ("launch", "a\0.yaml")),
]


def _loop(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")


def _run(content: str | bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "run").mkdir()
        _written("run/job.yaml", content)(folder)

    return make


OF_PATHS = [
    _override("data that are not there", "data.path=nowhere", "nowhere: no such folder. `megabatch data import"),
    _override("data that are a file", "data.path=recipe.yaml", "recipe.yaml"),
    _override("data without a description", "data.path=images", "dataset.json: missing. `megabatch data index"),
    _override("an empty path", "data.path=''", "'' is no path and no URL"),
    _override("a path with a NUL", 'data.path="a\\0b"', "a NUL"),
    _override("a path of 10,000 characters", "data.path=" + "a" * 10_000, "aaa"),
    Bad("path: a loop of links", ("loop",), (*LAUNCH, "data.path=loop"), _loop),
    _override("no permission", "data.path=/proc/1/map_files/x", "/proc/1/map_files/x"),
    _override("a subset that is not there", "data.subset=nowhere.txt", "nowhere.txt"),
    _override("a subset that is a folder", "data.subset=images", "images"),
    _override("a mask that is none", "data.mask=recipe.yaml", "recipe.yaml: not a mask: write"),
    _override(
        "a quantization that is not known",
        "quantization=ternry",
        "quantization: 'ternry' is not known. Did you mean ternary?",
    ),
    _override("levels without their count", "quantization=levels", "quantization.count: missing"),
    _override("one level", "quantization={name: levels, count: 1}", "quantization.count"),
    _override(
        "a layer to keep that is not there",
        "quantization={name: ternary, keep: [head]}",
        "quantization.keep: 'head' fits no",
    ),
    _override(
        "nothing left to quantize",
        "quantization={name: ternary, keep: ['3']}",
        "every convolution and linear layer is kept",
    ),
    _override("weights that are not there", "model.pretrained=nowhere.safetensors", "no such file or folder"),
    _override("weights that are a recipe", "model.pretrained=recipe.yaml", "weights are in a file of type"),
    _override("weights in a folder without any", "model.pretrained=images", "is no run folder and no checkpoint"),
    _override(
        "a DeepSpeed file that is not there",
        "engine={name: deepspeed, config_file: nowhere.json}",
        "engine.config_file",
    ),
    Bad(
        "path: a DeepSpeed file that is no JSON",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        _written("x.json", "{"),
    ),
    Bad(
        "path: a DeepSpeed file 100,000 deep",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        _written("x.json", '{"a":' * 100_000),
    ),
    Bad(
        "path: a DeepSpeed file in Latin-1",
        ("engine.config_file: x.json is no JSON",),
        (*LAUNCH, "engine={name: deepspeed, config_file: x.json}"),
        _written("x.json", b'{"a": "\xe4"}'),
    ),
    Bad(
        "path: statistics 100,000 deep",
        ("stats.json is not of format",),
        (*LAUNCH, "data.normalize=auto", "data.path=own"),
        lambda folder: (
            shutil.copytree(folder / "data", folder / "own"),
            _written("own/stats.json", "[" * 100_000)(folder),
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


def _shards(**content: bytes) -> Callable[[Path], object]:
    """Write shards/train-0.tar and so on."""

    def make(folder: Path) -> None:
        (folder / "shards").mkdir()
        for name, raw in content.items():
            (folder / "shards" / f"{name.replace('_', '-')}.tar").write_bytes(raw)

    return make


def tar(*members: tuple[str | bytes, bytes]) -> bytes:
    """Return a tar with these members, whatever their names."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as opened:
        for name, payload in members:
            info = tarfile.TarInfo(name if isinstance(name, str) else name.decode(errors="surrogateescape"))
            info.size = len(payload)
            opened.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


def _index(what: str, raw: bytes, *told: str) -> Bad:
    return Bad(f"shard: {what}", told, INDEX, _shards(train_0=raw))


GOOD = (("a.cls", b"0"), ("a.jpg", b"x"))
OF_SHARDS = [
    _index("an empty file", b"", "train-0.tar: byte 0: not a plain tar file but an empty one", "copy it again"),
    _index("nothing in it", bytes(10_240), "train-0.tar: ", "have no samples: remove them"),
    _index("no .cls", tar(*GOOD, ("b.jpg", b"x")), "train-0.tar: byte 2560: sample b has .jpg", "needed are one .cls"),
    _index("no image", tar(*GOOD, ("b.cls", b"0")), "sample b has .cls of 1 bytes: needed are one .cls and one image"),
    _index("two images", tar(*GOOD, ("a.png", b"x")), "sample a has", "one image", "pack again"),
    _index("two members of a kind", tar(*GOOD, ("a.jpg", b"y")), "sample a has two .jpg members: keep one of them"),
    _index("a class that is a word", tar(("a.cls", b"cat"), ("a.jpg", b"x")), "train-0.tar", "a", "cat"),
    _index("a class that is a fraction", tar(("a.cls", b"1.5"), ("a.jpg", b"x")), "train-0.tar", "1.5"),
    _index("a class below 0", tar(("a.cls", b"-1"), ("a.jpg", b"x")), "train-0.tar", "-1"),
    _index("a class beyond all", tar(("a.cls", b"9" * 30), ("a.jpg", b"x")), "train-0.tar"),
    _index("an empty class", tar(("a.cls", b""), ("a.jpg", b"x")), "sample a has .cls of 0 bytes"),
    _index("an empty image", tar(("a.cls", b"0"), ("a.jpg", b"")), "sample a has .cls of 1 bytes, .jpg of 0 bytes"),
    _index(
        "..", tar(("../a.cls", b"0"), ("../a.jpg", b"x")), "byte 0: '../a.cls' is a name that leads out of the archive"
    ),
    _index("an absolute name", tar(("/a.cls", b"0"), ("/a.jpg", b"x")), "'/a.cls' is a name that leads out"),
    _index("a name that is not UTF-8", tar((b"\xff.cls", b"0")), "is a name that is not UTF-8: rename the file"),
    _index("a line feed in a name", tar(("a\nb.cls", b"0")), "is a name with a space or control character"),
    _index("a name without an extension", tar(("a", b"0")), "a member needs a name and an extension"),
    _index(
        "a pickle", tar(*GOOD, ("a.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")), "'a.pkl' is a pickle", "tar --delete"
    ),
    _index("gzip", gzip.compress(tar(*GOOD)), "gzip data: unpack it with gunzip"),
    _index("a bomb of gzip", gzip.compress(bytes(20_000_000)), "gzip data: unpack it with gunzip"),
    _index("xz", lzma.compress(tar(*GOOD)), "xz data: unpack it with unxz"),
    _index("a zip", b"PK\x03\x04" + bytes(1000), "a zip: unpack it and use `megabatch data import`"),
    _index("a web page", b"<html>" + bytes(1000), "an HTML or XML page", "download the shard again"),
    _index("cut", tar(*GOOD)[:1300], "train-0.tar: byte ", "copy it again"),
    Bad("shards: none", ("images: no .tar files in it. `megabatch data import",), ("data", "index", "images")),
    Bad("shards: no folder", ("nowhere",), ("data", "index", "nowhere")),
    _override("a pattern for nothing", "data.path=data/{}.tar", "data/{}.tar"),
    _override("a pattern without an end", "data.path=data/{0..9.tar", "data/{0..9.tar"),
    _override(
        "a pattern for 10^9 shards",
        "data.path=data/train-{0..999999999}.tar",
        "{0..999999999}: names 1,000,000,000 shards or more",
    ),
    _override(
        "a pattern for 10^12 shards", "data.path=data/{0..999999}{0..999999}.tar", "data/{0..999999}{0..999999}.tar"
    ),
    _override("a pattern that matches nothing", "data.path=data/valid-*.tar", "matches no file. Correct data.path"),
    _override("a shard twice", "data.path=data/train-000000.tar::data/train-000000.tar", "train-000000.tar"),
    _override("a shard that is not there", "data.path=data/train-000009.tar", "train-000009.tar"),
    _override("a pipe", "data.path='pipe:touch canary'", "pipe:", "Allowed are a path and"),
    _override("ftp", "data.path=ftp://host/a.tar", "data is not read from ftp", "Allowed are a path and"),
    _override("file: with a host", "data.path=file://host/a.tar", "names a host. Write file:///absolute/path"),
    _override("s3: without a bucket", "data.path=s3:///a.tar", "names no bucket"),
    _override("s3: with a key in it", "data.path=s3://key:planted@bucket/a.tar", "holds credentials"),
    _override("nothing before ::", "data.path=::data", "nothing stands before or after a '::'"),
]


def _described(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        own = folder / "own"
        shutil.copytree(folder / "data", own)
        values = json.loads((own / "dataset.json").read_text())
        change(values)
        (own / "dataset.json").write_text(json.dumps(values))

    return make


OWN = (*LAUNCH, "data.path=own")


def _data(what: str, change: Callable[[dict[str, object]], object], *told: str) -> Bad:
    return Bad(f"data: {what}", told, OWN, _described(change))


def _harmed(what: str, harm: Callable[[Path], object], *told: str) -> Bad:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "data", folder / "own")
        harm(folder / "own")

    return Bad(f"data: {what}", told, OWN, make)


def _linked_to_itself(own: Path) -> None:
    shard = own / "train-000001.tar"
    shard.unlink()
    shard.symlink_to(shard.name)


OF_DATA = [
    _harmed(
        "a shard that is gone",
        lambda own: (own / "train-000001.tar").unlink(),
        "own/train-000001.tar: missing. Copy it back",
    ),
    _harmed(
        "a shard that was cut",
        lambda own: (own / "train-000001.tar").write_bytes(b"x"),
        "train-000001.tar: 1 bytes, dataset.json recorded",
    ),
    _harmed(
        "an index that is gone",
        lambda own: (own / "train-000001.idx").unlink(),
        "train-000001.idx: missing. Make it with",
    ),
    _harmed(
        "a description that is none",
        lambda own: (own / "dataset.json").write_bytes(b"{"),
        "own/dataset.json: no description",
        "makes it anew",
    ),
    _harmed(
        "a description 100,000 deep",
        lambda own: (own / "dataset.json").write_bytes(b"[" * 100_000),
        "own/dataset.json: no description",
    ),
    _harmed("a shard that is a link to itself", _linked_to_itself, "own/train-000001.tar: missing"),
    _data(
        "another format",
        lambda values: values.update(format="megabatch-dataset-9"),
        "format 'megabatch-dataset-9', but this version",
    ),
    _data("no splits", lambda values: values.update(splits={}), "has no splits: there is nothing to read"),
    _data(
        "fewer classes than labels",
        lambda values: values.update(classes=["a"]),
        "has labels 0 to 2, but there are 1 classes",
    ),
    _override("a split that there is not", "data.validation_split=valid", "data.validation_split is 'valid'"),
    _override("validation on training samples", "data.validation_split=train", "train"),
    _override(
        "fewer samples than a batch, of which only whole ones count",
        "batch={global_batch: 4000, micro_batch: 4, last_batch: drop}",
        "4000",
    ),
    _override("a micro-batch above the batch", "batch.micro_batch=40", "40"),
    _override(
        "cycles that end within an epoch",
        "schedule={name: cosine_restarts, cycles: 3}",
        "schedule.cycles=3",
        "epochs=3",
    ),
    _override("more ranks than micro-batches", "cluster.processes_per_node=6", "6 ranks share 5 micro-batches a step"),
    _override("more GPUs than there are", "cluster.device=cuda", "GPU"),
]

OF_THE_ENVIRONMENT = [
    Bad(
        "environment: no sbatch",
        ("backend slurm needs `sbatch`", "start from a login node"),
        (*LAUNCH, "--cluster", "slurm-example", "cluster.device=cpu"),
        None,
        {"PATH": "/nowhere"},
    ),
    Bad(
        "environment: no kubectl",
        ("backend kubernetes needs `kubectl`", "install it"),
        CLUSTER,
        _written("x.yaml", "name: a\nbackend: {name: kubernetes, image: a, claim: a, mount: /}\n"),
        {"PATH": "/nowhere"},
    ),
    Bad(
        "environment: nothing for a variable that is asked for",
        ("MEGABATCH_UNSET is not set: export it",),
        (*LAUNCH, "data.path=${env:MEGABATCH_UNSET}"),
        None,
        {"MEGABATCH_UNSET": None},
    ),
]

MEASURED = ("data.hash_split={train: 0.5, test: 0.5}", "data.test_split=test")
TWO = "continual.stages=[{classes: [class0]}, {classes: [class1, class2]}]"


def _stages(what: str, told: str, *overrides: str, command: tuple[str, ...] = LAUNCH) -> Bad:
    return Bad(f"stages: {what}", (told,), (*command, *MEASURED, *overrides))


OF_STAGES = [
    _stages("one alone", "continual.stages", "continual.stages=[{classes: [class0]}]"),
    _stages("nothing to measure on", "write data.test_split or data.validation_split", TWO, "data.test_split=null"),
    _stages(
        "a class that is not there",
        "continual.stages.1.classes: data has no class 'clas1'. Did you mean class1?",
        "continual.stages=[{classes: [class0]}, {classes: [clas1]}]",
    ),
    _stages(
        "a class twice",
        "continual.stages.1: class0 of data comes in stage 1 already: a stage brings other classes",
        "continual.stages=[{classes: [class0]}, {classes: [class2, class0]}]",
    ),
    _stages(
        "nothing new", "continual.stages.1: class0 of data comes in stage 1 already", "continual.stages=[{}, {}]"
    ),
    _stages(
        "data that are not there",
        "gone: no such folder. `megabatch data import",
        "continual.stages=[{classes: [class0]}, {path: gone}]",
    ),
    _stages("a buffer larger than the old data", "stage 2: data: train_samples: 60 is 60 of each of 1 classes, and there "
            "are", TWO, "continual.replay.samples=60"),
    _stages("a buffer smaller than the classes", "continual.replay.samples: 1 is less than one of each of 2 classes",
            "continual.stages=[{classes: [class0, class1]}, {classes: [class2]}]", "continual.replay.samples=1"),
    _stages("a replay of everything", "continual.replay.share: 1: should be less than 1", TWO,
            "continual.replay={samples: 3, share: 1}"),
    _stages("a change of the data", "changes: data.path: a stage can change keys of batch, loss",
            "continual.stages=[{classes: [class0]}, {classes: [class1], changes: {data.path: x}}]"),
    _stages("a change that is no key", "continual.stages.1.changes, optimizer.momentun=1: optimizer.momentun: unknown key",
            "continual.stages=[{classes: [class0]}, {classes: [class1], changes: {optimizer.momentun: 1}}]"),
    _stages("with classes of the recipe", "leave out data.classes", TWO, "data.classes=[class0]"),
    _stages("with a teacher of the recipe", "leave out distillation", TWO, "distillation.teachers=[a]"),
    _stages("without importance", "continual.ewc.strength: missing", TWO, "continual.ewc={}"),
    _stages("to tune", "continual: a recipe with stages is started by `megabatch launch`", TWO,
            command=("tune", "lr", "recipe.yaml")),
    _stages("to ablate", "continual: a recipe with stages is started by `megabatch launch`", TWO,
            command=("ablate", "recipe.yaml", "--vary", "epochs=1")),
    _stages("to start by hand", "--write: a recipe with stages is no single job", TWO,
            command=("launch", "recipe.yaml", "--dry-run", "--write", "by-hand")),
    _stages("as one plan in JSON", "--json and --svg show one run", TWO, command=("plan", "recipe.yaml", "--json")),
]  # fmt: skip

ALL = (*OF_YAML, *OF_TEXTS, *OF_PATHS, *OF_SHARDS, *OF_DATA, *OF_STAGES, *OF_THE_ENVIRONMENT)
