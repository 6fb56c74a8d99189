"""Recipes and cluster files: what is no YAML, unknown keys, values that cannot be."""

from __future__ import annotations

from support.bad_inputs.bad import changed, recipe
from support.runs import RECIPE


def _aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))])


OF_YAML = [
    recipe("empty", "", "x.yaml: name: missing. Add it at the top level"),
    recipe("only a comment", "# nothing\n", "x.yaml: name: missing"),
    recipe("a list", "- epochs\n", "x.yaml: the top level is not a mapping: write `key: value` lines"),
    recipe("a text", "epochs\n", "x.yaml: the top level is not a mapping"),
    recipe("a number", "3\n", "x.yaml: the top level is not a mapping"),
    recipe("a tab", "\tname: a\n", "x.yaml:1:1: not valid YAML: found character '\\t'"),
    recipe("an open bracket", "name: [a,\n", "x.yaml:2:1: not valid YAML"),
    recipe("two documents", "name: a\n---\nname: b\n", "x.yaml:2:1: not valid YAML: but found another document"),
    recipe("a key twice", RECIPE + "epochs: 3\n", "x.yaml:18:1: the key epochs is here twice: keep one"),
    changed("an unknown key", "epochs: 2", "epoch: 2", "x.yaml:2:1: epoch: unknown key. Did you mean epochs?"),
    changed("an unknown key below", "weight_decay", "wieght_decay", "x.yaml:14", "Did you mean weight_decay?"),
    changed("a text for a number", "epochs: 2", "epochs: two", "x.yaml:2:1: epochs: 'two': should be a valid integer"),
    changed("a quoted number", "epochs: 2", "epochs: '2'", "x.yaml:2:1: epochs: '2': should be a valid integer"),
    changed("a quoted fraction", "0.05", "'5e-2'", "base_learning_rate: '5e-2': should be a valid number"),
    changed("a fraction for a count", "epochs: 2", "epochs: 2.5", "x.yaml:2:1: epochs: 2.5: should be a valid integer"),
    changed(
        "a word of YAML 1.1 for a truth value",
        "sample_log: true",
        "sample_log: yes",
        "x.yaml:17:12: tracking.sample_log: 'yes': should be",
    ),
    changed(
        "on for a truth value", "sample_log: true", "sample_log: on", "sample_log: 'on': should be a valid boolean"
    ),
    changed("a truth value for a number", "epochs: 2", "epochs: true", "x.yaml:2:1: epochs: True: should be"),
    changed("an open list", "optimizer: {", "optimizer: [{", "x.yaml:15:1: not valid YAML"),
    changed(
        "a list where a mapping is",
        "{name: sgd, base_learning_rate: 0.05, scaling: none, weight_decay: 1e-3}",
        "[sgd]",
        "x.yaml:14:1: optimizer",
    ),
    changed("a mapping for a number", "epochs: 2", "epochs: {a: 1}", "x.yaml:2:1: epochs: {'a': 1}: should be"),
    changed("nothing for a number", "epochs: 2", "epochs:", "x.yaml:2:1: epochs: None: should be"),
    changed("a missing section", 'model: {name: "network:small"}\n', "", "x.yaml:1:1: model: missing. Add it"),
    changed("not a number", "0.05", ".nan", "base_learning_rate: nan: should be"),
    changed(
        "an option that is not a number",
        '"network:small"',
        '"network:small", options: {widths: [8, .inf]}',
        "inf is no number that can be used here",
    ),
    changed("an infinite number", "0.05", ".inf", "base_learning_rate: inf: should be a finite number"),
    changed("a negative batch", "global_batch: 20", "global_batch: -20", "global_batch: -20: should be greater than 0"),
    changed("a batch of 0", "global_batch: 20", "global_batch: 0", "global_batch: 0: should be greater than 0"),
    changed("a learning rate of 0", "0.05", "0", "base_learning_rate: 0", "greater than 0"),
    changed("a negative learning rate", "0.05", "-1", "base_learning_rate: -1", "greater than 0"),
    changed("epochs of 0", "epochs: 2", "epochs: 0", "epochs: 0: should be greater than 0"),
    changed("a number without end", "epochs: 2", "epochs: " + "9" * 5000, "x.yaml"),
    changed("more epochs than time", "epochs: 2", "epochs: 1000000000000000000000", "x.yaml"),
    recipe("an object of Python", "name: !!python/object:os.system x\n", "x.yaml:1:7: the tag", "write a plain value"),
    recipe("a call of Python", "name: !!python/object/apply:os.system ['touch canary']\n", "x.yaml:1:7"),
    recipe("a tag of its own", "name: !danger x\n", "x.yaml:1:7: the tag !danger is not allowed"),
    recipe(
        "a tag on a list", RECIPE.replace("train_transforms:", "train_transforms: !!set", 1), "x.yaml:8:21: the tag"
    ),
    recipe("a tag that does not fit", "name: !!bool x\n", "x.yaml:1:7: 'x' is no value of the tag"),
    recipe("a bomb of aliases", _aliases(), "x.yaml", "expand without end: write the values out"),
    recipe("an alias in itself", "a: &a [*a]\n", "x.yaml:1:4: aliases (&name, *name) expand without end"),
    recipe("values 3,000 deep", "a: " + "[" * 3000, "x.yaml:1", "values inside values, more than 40 deep"),
    recipe(
        "mappings 400 deep",
        "a:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 400)),
        "x.yaml:21:21: not valid YAML: values inside values",
    ),
    recipe("a list for a key", "? [a, b]\n: c\n", "x.yaml:1:3: a list or mapping as a key: write a plain word"),
    recipe("a control character in a key", '"a\\e[2J": 1\n', "x.yaml:1:1: a key with control characters"),
    recipe("a key of 10,000 characters", "a" * 10_000 + ": 1\n", "x.yaml:1"),
    recipe("half a character", 'name: "\\ud800"\n', "x.yaml:1:7"),
    recipe("a NUL", "name: a\0b\n", "x.yaml"),
    recipe("UTF-16", "name: ä\n".encode("utf-16"), "x.yaml: not UTF-8 text (byte 0): save it as UTF-8"),
    recipe("Latin-1", "name: ä\n".encode("latin-1"), "x.yaml: not UTF-8 text (byte 6): save it as UTF-8"),
    recipe("a photograph", b"\xff\xd8\xff\xe0" + bytes(100), "x.yaml: not UTF-8 text"),
    recipe("1 MB and more", b"#" * 1_000_001, "x.yaml: larger than 1,000,000 bytes: not a recipe or cluster file"),
    recipe("its own base", "base: x.yaml\n", "x.yaml:1:1: base: x.yaml leads back to this file: break the circle"),
    recipe("a base that is not there", "base: nowhere.yaml\n", "x.yaml:1:1: base: no such recipe file"),
    recipe("two bases", "base: [digits, cifar10]\n", "x.yaml:1:1: base: ['digits', 'cifar10']: write the name"),
    changed(
        "an unknown choice", "name: sgd", "name: sdg", "x.yaml:14:1: optimizer: 'sdg' is not known. Did you mean sgd?"
    ),
    changed(
        "a transform that is no import path",
        "- horizontal_flip",
        "- {name: custom, function: flip}",
        "x.yaml:10:22: data.train_transforms.1.function: 'flip': write MODULE:FUNCTION",
    ),
    changed(
        "a transform that is not there",
        "- horizontal_flip",
        "- {name: custom, function: 'nowhere:flip'}",
        "transform nowhere:flip: No module named 'nowhere'",
    ),
    changed("a choice without a name", "name: cosine, ", "", "x.yaml:15", "schedule", "has no name"),
    changed("a text where ${env:} is not replaced", "epochs: 2", "epochs: ${env:HOME}", "is not replaced in this key"),
    changed("a variable that is not set", "path: data", "path: ${env:MEGABATCH_UNSET}/a", "x.yaml:4:3", "export it"),
]
