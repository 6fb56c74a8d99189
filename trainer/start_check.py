"""Before they train, the ranks tell rank 0 what they find on their nodes; with an unfit node nothing begins.

It takes a few milliseconds. Where three nodes or more train together, their speeds are compared as well, and a slow
one is named. `megabatch check` looks longer, and before a job has waited in a queue.
"""

from __future__ import annotations

import torch.distributed as dist

from megabatch.configs.cluster import Cluster
from megabatch.configs.node_facts import Finding, judge
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.check_ranks import facts_of, speed_of
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.gathered import gathered_json
from megabatch.trainer.world import World

_SUM_ROUNDS = 1
_SPEED_ROUNDS = 2


class UnfitNodeError(TrainingError):
    """No training may begin with the node of this rank; the job may, with another one in its place."""


def require_fit_nodes(world: World, cluster: Cluster, run_dir: RunDir) -> None:
    """Raise UnfitNodeError on the ranks of an unfit node, which ends the others; print what is only odd."""
    if not cluster.check_at_start or world.num_ranks == 1:
        return
    speed = speed_of(world, _SPEED_ROUNDS) if cluster.nodes > 2 else {}  # of two, neither is the usual one
    facts = {**facts_of(world, run_dir, _SUM_ROUNDS), **speed}
    found = judge(gathered_json(facts, world.num_ranks), cluster.device)  # the same on every rank
    unfit = [finding for finding in found if finding.unfit]
    if world.is_main:
        for finding in found:
            if not finding.unfit:
                print(f"warning: {finding.told}", flush=True)
    if unfit:
        _end(unfit, world)


def _end(unfit: list[Finding], world: World) -> None:
    own = [finding for finding in unfit if finding.host == world.host and finding.rank in (None, world.rank)]
    if own:
        raise UnfitNodeError("; ".join(finding.text for finding in own))
    dist.barrier()  # which does not end: the watch tells this rank whose node it is
    raise TrainingError(unfit[0].told)
