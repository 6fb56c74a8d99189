"""Checkpoints of parameters that are shared out among ranks, on three real ranks (tests/support/sharded_ranks.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.runs import environment

pytestmark = pytest.mark.processes
RANKS = Path(__file__).parents[1] / "support" / "sharded_ranks.py"


def test_three_ranks_save_their_shards_and_three_two_and_one_load_them_bit_for_bit(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(RANKS), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert sorted(file.name for file in tmp_path.glob("rank-*.json")) == [f"rank-{rank}.json" for rank in range(3)]
