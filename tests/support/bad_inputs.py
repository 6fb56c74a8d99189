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
    _recipe("a key twice", RECIPE + "epochs: 3\n", "x.yaml:17:1: the key epochs is here twice: keep one"),
    _with("an unknown key", "epochs: 2", "epoch: 2", "x.yaml:2:1: epoch: unknown key. Did you mean epochs?"),
    _with("an unknown key below", "momentum", "momentun", "") if "momentum" in RECIPE else
    _with("an unknown key below", "weight_decay", "wieght_decay", "x.yaml:14", "Did you mean weight_decay?"),
    _with("a text for a number", "epochs: 2", "epochs: two", "x.yaml:2:1: epochs: 'two': should be a valid integer"),
    _with("a quoted number", "epochs: 2", "epochs: '2'", "x.yaml:2:1: epochs: '2': should be a valid integer"),
    _with("a quoted fraction", "0.05", "'5e-2'", "base_learning_rate: '5e-2': should be a valid number"),
    _with("a fraction for a count", "epochs: 2", "epochs: 2.5", "x.yaml:2:1: epochs: 2.5: should be a valid integer"),
    _with("a word of YAML 1.1 for a truth value", "sample_log: true", "sample_log: yes", "x.yaml:16", "sample_log: 'yes'"),
    _with("on for a truth value", "sample_log: true", "sample_log: on", "sample_log: 'on': should be a valid boolean"),
    _with("a truth value for a number", "epochs: 2", "epochs: true", "x.yaml:2:1: epochs: True: should be"),
    _with("a list for a mapping", "optimizer: {", "optimizer: [{", "x.yaml:14"),
    _with("a list where a mapping is", "{name: sgd, base_learning_rate: 0.05, scaling: none, weight_decay: 1e-3}", "[sgd]",
          "x.yaml:14:1: optimizer"),
    _with("a mapping for a number", "epochs: 2", "epochs: {a: 1}", "x.yaml:2:1: epochs: {'a': 1}: should be"),
    _with("nothing for a number", "epochs: 2", "epochs:", "x.yaml:2:1: epochs: None: should be"),
    _with("a missing section", "model: {name: \"network:small\"}\n", "", "x.yaml:1:1: model: missing. Add it"),
    _with("not a number", "0.05", ".nan", "base_learning_rate: nan: should be"),
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
    _recipe("a tag on a list", RECIPE.replace("train_transforms:", "train_transforms: !!set", 1), "x.yaml"),
    _recipe("a tag that does not fit", "name: !!bool x\n", "x.yaml:1:7: 'x' is no value of the tag"),
    _recipe("a bomb of aliases", _aliases(), "x.yaml", "expand without end: write the values out"),
    _recipe("an alias in itself", "a: &a [*a]\n", "x.yaml:1:4: aliases (&name, *name) expand without end"),
    _recipe("values 3,000 deep", "a: " + "[" * 3000, "x.yaml:1", "values inside values, more than 40 deep"),
    _recipe("mappings 100,000 deep", "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 400)), "x.yaml:4"),
    _recipe("a list for a key", "? [a, b]\n: c\n", "x.yaml:1:3: a list or mapping as a key: write a plain word"),
    _recipe("a control character in a key", '"a\\e[2J": 1\n', "x.yaml:1:1: a key with control characters"),
    _recipe("a key of 10,000 characters", "a" * 10_000 + ": 1\n", "x.yaml:1"),
    _recipe("half a character", 'name: "\\ud800"\n', "x.yaml:1:7"),
    _recipe("a NUL", "name: a\0b\n", "x.yaml"),
    _recipe("UTF-16", "name: ä\n".encode("utf-16"), "x.yaml: not UTF-8 text (byte 0): save it as UTF-8"),
    _recipe("Latin-1", "name: ä\n".encode("latin-1"), "x.yaml: not UTF-8 text (byte 6): save it as UTF-8"),
    _recipe("a photograph", b"\xff\xd8\xff\xe0" + bytes(100), "x.yaml: not UTF-8 text"),
    _recipe("100 MB", b"", "x.yaml: larger than 1,000,000 bytes: not a recipe or cluster file"),
    _recipe("its own base", "base: x.yaml\n", "x.yaml:1:1: base: x.yaml leads back to this file: break the circle"),
    _recipe("a base that is not there", "base: nowhere.yaml\n", "x.yaml:1:1: base: no such recipe file"),
    _recipe("two bases", "base: [digits, cifar10]\n", "x.yaml:1:1: base: ['digits', 'cifar10']: write the name"),
    _with("an unknown choice", "name: sgd", "name: sdg", "x.yaml:14:13: optimizer: 'sdg' is not known. Did you mean sgd?"),
    _with("a choice without a name", "name: cosine, ", "", "x.yaml:15", "schedule", "has no name"),
    _with("a text where ${env:} is not replaced", "epochs: 2", "epochs: ${env:HOME}", "is not replaced in this key"),
    _with("a variable that is not set", "path: data", "path: ${env:MEGABATCH_UNSET}/a", "x.yaml:4:3", "export it"),
]
OF_YAML[-12] if False else None
