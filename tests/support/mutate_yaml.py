"""Recipes and cluster files as hurried hands and attackers write them. Everything follows from a seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from megabatch.configs.load import shipped
from support.mutate import mutated_bytes
from support.runs import RECIPE

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 10**6, 10**9, 2**63, 10**30, 10**400, 0.0, 0.5, -0.5, 1.5, 1e-300, 1e300, 5e-324,
    float("inf"), float("nan"), "", " ", "a", "1", "1e-3", "yes", "null", "no such thing", "$(touch canary)", "a\nb",
    "a\0b", "\ud800", "\u0430", "x" * 10_000, "${env:HOME}", "${env:MEGABATCH_UNSET}", "../..", "/", "lars", "lamb", "sgd",
    "adamw", "fsdp", "deepspeed", "accelerate", "cosine", "constant", "step", "auto", [], {}, [[]], [{}], [1], [0, 0],
    ["a", "b"], {"name": "x"}, {"a": {"b": {}}}, [1, 2, 3], [0.5, 0.5, 0.5], {"name": None}, {"name": []}, [None],
)  # fmt: skip
_LINES = (
    "a: &a [*a]", "a: &a {b: *a}", "<<: {epochs: 3}", "? [a, b]\n: c", "? {a: b}\n: c", "!!python/object:os.system x",
    "a: !!python/object/apply:os.system ['touch canary']", "a: !!binary aGk=", "a: !!set {b}", "a: !!timestamp 2001-01-01",
    "--- ", "...", "%YAML 1.1", "%TAG ! x:", "a: |\n  b", "a: >-\n  b", "a: 'b", 'a: "\\x00"', 'a: "\\ud800"', "\ta: 1",
    "a: 0x10", "a: 0o17", "a: 1_000", "a: .inf", "a: .nan", "a: 12:00:00", "a: 2001-01-01", "a: ~", ": 1", "- 1", "*a",
    "a: " + "[" * 3000, "a: " + "{b: " * 3000, "base: digits", "base: x.yaml", "base: [digits]", "a: " + "9" * 5000,
    "a: 1e" + "9" * 400, "1: 2", "null: 3", "true: 4", "a: b: c", "a:\n- b\n c: d", "\ufeffa: 1", "a: \x85b", "a: !<!> b",
    "a: !<tag:yaml.org,2002:str> b", "a: !x b", "epochs: !!str 3", "epochs: !!int '3'", "epochs: !!float x", "a: !!int x",
    "a: !!bool x", "a: !!null x", "a: = ", "a: <<",
)  # fmt: skip


def whole_recipes() -> list[str]:
    """Return the shipped recipes and the one of the tests."""
    return [RECIPE, *(file.read_text() for file in shipped("recipes").values())]


def whole_clusters() -> list[str]:
    """Return the shipped cluster files, and one of each other backend."""
    others = (
        "name: a\nnodes: 2\nbackend: {name: torchrun, endpoint: 'a:1', min_nodes: 1}\n",
        "name: a\nnodes: 2\nbackend: {name: ssh, hosts: [a, b], options: ['-4'], pass_environment: [A]}\n",
        "name: a\nnodes: 2\nbackend: {name: accelerate, address: a}\nenvironment: {A: b}\n",
        "name: a\nnodes: 2\nbackend: {name: deepspeed, address: a}\ncache: {folder: x}\n",
        "name: a\nbackend: {name: kubernetes, image: a, run_folder: /a, volumes: [{claim: a, path: /a}]}\n",
    )
    return [*(file.read_text() for file in shipped("clusters").values()), *others]


def mutated_yaml(text: str, tree: dict[str, Any], seed: int) -> bytes:
    """Change a file in one to three ways: one of its values, its lines, or its bytes."""
    chosen = random.Random(seed)
    kind = chosen.randrange(10)
    if kind < 6:
        changed = copy.deepcopy(tree)
        for _ in range(chosen.randint(1, 3)):
            _change_value(changed, chosen)
        return written(changed)
    if kind < 9:
        lines = text.split("\n")
        for _ in range(chosen.randint(1, 3)):
            _change_lines(lines, chosen)
        return "\n".join(lines).encode(errors="surrogatepass")
    return mutated_bytes(text.encode(), seed)


def written(values: Any) -> bytes:
    """Write plain values as JSON that is YAML too, infinite numbers as YAML spells them."""
    text = json.dumps(values, ensure_ascii=False)
    for json_word, word in (("-Infinity", "-.inf"), ("Infinity", ".inf"), ("NaN", ".nan")):
        text = text.replace(json_word, word)
    return text.encode(errors="surrogatepass")


def _change_value(tree: Any, chosen: random.Random) -> None:
    parent: Any = tree
    while parent:
        name = chosen.choice(sorted(parent) if isinstance(parent, dict) else range(len(parent)))
        if not isinstance(parent[name], dict | list) or not parent[name] or chosen.random() < 0.2:
            break
        parent = parent[name]
    else:
        return
    what = chosen.randrange(8)
    if what < 5:
        parent[name] = copy.deepcopy(chosen.choice(_VALUES))
    elif what == 5:
        del parent[name]
    elif isinstance(parent, dict):
        parent[name[:-1] if what == 6 else chosen.choice(("", "name", "a", "path", "\n", "é" * 100))] = copy.deepcopy(
            parent[name]
        )
    else:
        parent.append(copy.deepcopy(parent[name]))


def _change_lines(lines: list[str], chosen: random.Random) -> None:
    place, other = chosen.randrange(len(lines)), chosen.randrange(len(lines))
    line = lines[place]
    what = chosen.randrange(7)
    if what < 3:
        indent = " " * chosen.choice((0, len(line) - len(line.lstrip()), 3))
        lines.insert(place, indent + chosen.choice(_LINES))
    elif what == 3:
        lines[place], lines[other] = lines[other], line
    elif what == 4:
        lines.insert(place, line)
    elif what == 5:
        lines[place] = chosen.choice((f" {line}", line.lstrip(), f"\t{line}", line.replace(":", "", 1), f"{line}]"))
    else:
        key = line.partition(":")[0]
        lines[place] = f"{key}: {chosen.choice(_VALUES)}"
