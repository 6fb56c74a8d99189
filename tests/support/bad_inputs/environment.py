"""Programs and variables of the environment."""

from __future__ import annotations

from support.bad_inputs.bad import CLUSTER, LAUNCH, Bad, written

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
        written("x.yaml", "name: a\nbackend: {name: kubernetes, image: a, claim: a, mount: /}\n"),
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
