"""Texts that a user gives: names, overrides, options, values for Slurm."""

from __future__ import annotations

import json

from support.bad_inputs.bad import LAUNCH, Bad, X, cluster, override, written
from support.runs import RECIPE

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
            written("x.yaml", RECIPE.replace("name: tiny", f"name: {json.dumps(text)}", 1)),
        )
        for what, text in NAMES.items()
    ),
    *(cluster(f"name with {what}", json.dumps({"name": text}), "x.yaml:1:2: name: ") for what, text in NAMES.items()),
    *(
        cluster(f"partition with {what}", _slurm(partition=text), "x.yaml:1:", "backend.partition: ")
        for what, text in NAMES.items()
        if what not in ("a slash", "a dash")
    ),
    *(
        cluster(f"variable called {what}", json.dumps({"name": "a", "environment": {text: "1"}}), "x.yaml:1:")
        for what, text in NAMES.items()
    ),
    cluster(
        "a line feed in the value of a variable for Slurm",
        json.dumps({"name": "a", "backend": "slurm", "environment": {"A": "a\nb"}}),
        "cluster.environment.A",
        "control",
    ),
    *(
        cluster(
            f"a NUL in {where}", json.dumps({"name": "a", **values}), "x.yaml:1:", "a text with a NUL", "leave it out"
        )
        for where, values in (
            ("a name", {"name": "a\0b"}),
            ("a variable", {"environment": {"A": "a\0b"}}),
            ("a partition", {"backend": {"name": "slurm", "partition": "a\0b"}}),
            ("a folder", {"cache": {"folder": "a\0b"}}),
        )
    ),
    cluster("no nodes", "name: a\nnodes: 0\n", "x.yaml:2:1: nodes: 0: should be greater than 0"),
    cluster("no ranks", "name: a\nprocesses_per_node: 0\n", "x.yaml:2:1: processes_per_node: 0: should be"),
    cluster("a device that there is not", "name: a\ndevice: tpu\n", "x.yaml:2:1: device: 'tpu'", "Allowed: cpu, cuda"),
    cluster("a backend that there is not", "name: a\nbackend: slrum\n", "x.yaml:2:1: backend", "Did you mean slurm?"),
    cluster(
        "a token", "name: a\nenvironment: {MY_TOKEN: planted}\n", "cluster.environment.MY_TOKEN", "Instead: set it"
    ),
    cluster("a backend of its own without a module", "name: a\nbackend: custom\n", "backend.module: missing"),
    cluster(
        "a backend of its own that is not there",
        "name: a\nbackend: {name: custom, module: nowhere}\n",
        "cluster.backend.module: nowhere: ModuleNotFoundError",
    ),
    cluster(
        "a backend that is a path",
        "name: a\nbackend: {name: custom, module: a/b.py}\n",
        "'a/b.py': write the name of a module",
    ),
    cluster("more hosts than nodes", "name: a\nbackend: {name: ssh, hosts: [a, b]}\n", "x.yaml:2:1", "Write nodes: 2"),
    cluster("a host that is an option", "name: a\nbackend: {name: ssh, hosts: [-oProxyCommand=x]}\n", "x.yaml:2:"),
    cluster(
        "a hostfile that is not there", "name: a\nbackend: {name: ssh, hostfile: nowhere}\n", "nowhere", "HOST slots=N"
    ),
    cluster("an endpoint without a port", "name: a\nbackend: {name: torchrun, endpoint: a}\n", "write HOST:PORT"),
    Bad("cluster: not there", ("no cluster is called 'nowhere'", "Or give a path"), (*LAUNCH, "--cluster", "nowhere")),
    Bad(
        "override: a path of a model with a shell in it",
        ("command line, model.name=", "write timm/NAME"),
        (*LAUNCH, "model.name=$(touch canary)"),
    ),
    override("no key", "=3", "command line, =3: not an override: write key.sub=value"),
    override("an empty step", "data..path=a", "command line, data..path=a: not an override"),
    override("an unknown key", "epoch=3", "command line, epoch=3: epoch: unknown key. Did you mean epochs?"),
    override("two lines", "epochs=3\nseed: 4", "command line, epochs=3", "more than one value: write one override"),
    override("broken YAML", "epochs=[", "command line, epochs=[", "not valid YAML"),
    override("a part of a number", "epochs.a=1", "command line, epochs.a=1"),
    override(
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
