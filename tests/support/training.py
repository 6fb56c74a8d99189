"""A training inside the test's own process, on one rank: as real as the ranks of torchrun, and much faster to start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from megabatch.configs.load import read_job
from megabatch.trainer import loop
from megabatch.trainer.build import Parts, build
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.world import World
from support.runs import Workplace


@contextmanager
def training(workplace: Workplace, run: str, *overrides: str) -> Iterator[Parts]:
    """Build a run of the workplace's recipe, restored from its newest checkpoint if the run is there already."""
    before, threads = Path.cwd(), torch.get_num_threads()
    deterministic, modules = torch.are_deterministic_algorithms_enabled(), set(sys.modules)
    os.chdir(workplace.folder)
    sys.path.insert(0, str(workplace.folder))
    torch.set_num_threads(1)
    try:
        run_dir = workplace.job(run, 1, *overrides)
        parts = build(read_job(run_dir.job), World(0, 1, 0, torch.device("cpu")), run_dir, lambda: False)
        try:
            loop.restore(parts)
            yield parts
        finally:
            parts.close()
    finally:
        os.chdir(before)
        sys.path.remove(str(workplace.folder))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(workplace.folder)):
                del sys.modules[name]
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def at_steps(parts: Parts, actions: dict[int, Callable[[], object]]) -> None:
    """Have each action done after its step, when no save is under way."""

    class Actor:
        def step(self, report: object, state: Any) -> None:
            if state.step in actions:
                parts.saver.wait()
                actions[state.step]()

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    parts.trackers = Trackers((*parts.trackers.members, Actor()))
