"""Ranks that srun started itself, one task each, without torchrun: Slurm's variables in the names that torch reads.

`srun --nodes 2 --ntasks-per-node 8 python -m megabatch.trainer RUN_DIR/job.yaml`. They meet at the first node, at a
port made of the numbers of job and step; MASTER_ADDR and MASTER_PORT, where set, say otherwise.
https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIRST_PORT, _PORTS = 10_000, 20_000  # below those that the kernel gives away


def srun_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what torchrun would have set; nothing where another launcher has, or where this is no task among others.

    >>> task = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"}
    >>> task |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[08-11],login"}
    >>> [srun_variables(task)[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
    ['3', '4', '1', 'gpu08', '10007']
    >>> srun_variables({**task, "RANK": "0"})
    {}
    """
    # a shell that srun started is no rank; the one rank of a batch script is: that one says where the ranks meet
    alone = environment.get("SLURM_STEP_NUM_TASKS", "1") == "1" and "MASTER_ADDR" not in environment
    if "RANK" in environment or alone or "SLURM_PROCID" not in environment:
        return {}
    number = int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
    found = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": _first_node(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(_FIRST_PORT + number % _PORTS),
    }
    return {name: environment.get(name, value) for name, value in found.items()}


def _first_node(nodes: str) -> str:
    """Return the first of Slurm's list of nodes.

    >>> _first_node("node1"), _first_node("a[3,7-9],b"), _first_node("r[1-2]n[04-05]x")
    ('node1', 'a3', 'r1n04x')
    """
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
