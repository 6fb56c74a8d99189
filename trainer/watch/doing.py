"""What a rank is doing, seen from another thread of it. The training itself writes nothing down, so it costs nothing.

Which part of the program the main thread is in follows from its stack. How many collectives it has begun and ended is
counted by torch's flight recorder, which is on by default: `_dump_fr_trace_json` for gloo (since torch 2.8) and
`_dump_nccl_trace_json` for NCCL (since 2.5). Both are torch's own names and may change; without them nothing is known
of collectives, and everything else works.
"""

from __future__ import annotations

import json
import sys
import threading
from types import FrameType
from typing import Any

import torch

Groups = dict[str, tuple[int, int]]  # process group -> collectives begun, collectives ended

WAITING_FOR_DATA = "waiting for data"

# (module, function) -> what is going on while it is on the stack
ACTIVITIES = {
    ("megabatch.trainer.build", "build"): "starting",
    ("megabatch.trainer.loop", "restore"): "loading a checkpoint",
    ("megabatch.trainer.loop", "go_back"): "going back to a checkpoint",
    ("megabatch.trainer.loop", "save"): "saving a checkpoint",
    ("megabatch.trainer.saver", "finish"): "saving a checkpoint",
    ("megabatch.trainer.step", "take_step"): "training",
    ("megabatch.trainer.evaluate", "evaluate"): "evaluating",
    ("megabatch.trainer.norms.precise", "refresh_statistics"): "taking batch-norm statistics",
    ("megabatch.data.loader", "load"): WAITING_FOR_DATA,
    ("megabatch.trainer.step", "_agree"): "adding up over the ranks",
}


def activity(frame: FrameType | None) -> str:
    """Return what the thread with this innermost frame is doing, from the general to the particular."""
    found: list[str] = []
    while frame is not None:
        name = ACTIVITIES.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        if name is not None and name not in found:
            found.append(name)
        frame = frame.f_back
    return ", ".join(reversed(found)) or "between two steps"


def main_frame() -> FrameType | None:
    """Return the innermost frame of the main thread."""
    return sys._current_frames().get(threading.main_thread().ident or 0)


def stack(frame: FrameType | None) -> list[str]:
    """Return the calls that lead to a frame, innermost last. Reads no source file: its disk may be what hangs."""
    lines: list[str] = []
    while frame is not None:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return lines[::-1]


def collectives(device: torch.device) -> Groups:
    """Return how many collectives this rank has begun and ended in each process group; empty if torch does not tell."""
    status = _recorded(device, entries=False).get("pg_status", {})
    return {
        group: (int(counts["last_enqueued_collective"]), int(counts["last_completed_collective"]))
        for group, counts in status.items()
        if {"last_enqueued_collective", "last_completed_collective"} <= set(counts)
    }


def last_collective(device: torch.device) -> str | None:
    """Return the collective that this rank began last, as the flight recorder describes it; it takes some 30 ms."""
    entries = _recorded(device, entries=True).get("entries", [])
    if not entries:
        return None
    last = max(entries, key=lambda entry: int(entry["record_id"]))
    shapes = ", ".join(
        f"{kind} {shape}" for kind, shape in zip(last["input_dtypes"], last["input_sizes"], strict=False)
    )
    return f"{last['profiling_name']} number {last['collective_seq_id']} of {shapes}"


def _recorded(device: torch.device, entries: bool) -> dict[str, Any]:
    name = "_dump_nccl_trace_json" if device.type == "cuda" else "_dump_fr_trace_json"
    dump = getattr(torch._C._distributed_c10d, name, None)
    if dump is None:
        return {}
    try:
        recorded = json.loads(dump(entries, False))
    except (RuntimeError, TypeError, ValueError):  # a later torch may want other arguments or write something else
        return {}
    return recorded if isinstance(recorded, dict) else {}
