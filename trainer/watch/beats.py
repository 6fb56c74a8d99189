"""What ranks write into the store for each other: a beat every second or so, and at the end one verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from megabatch.trainer.errors import TrainingError

# ended without a word; stopped; lives, but keeps the others waiting; has an error to tell; the store is silent
Kind = Literal["gone", "silent", "stuck", "failed", "store"]


@dataclass(frozen=True)
class Beat:
    """A sign of life of one rank."""

    rank: int
    host: str
    process: str  # processes.py
    number: int  # counts up
    step: int  # finished steps
    doing: str
    groups: dict[str, tuple[int, int]]  # process group -> collectives begun, collectives ended
    memory_bytes: int = 0  # of this process
    gpu_memory_bytes: int | None = None  # taken by torch; None on the CPU
    waits: float | None = None  # in which share of the last looks it waited in a collective; None: not long enough
    waits_for_data: float | None = None  # the same for the next micro-batch
    finished: bool = False  # the rank has left in order: whatever comes, it is not missed
    stack: tuple[str, ...] = ()  # of the main thread, innermost last; only after an alarm
    collective: str | None = None  # the last that it began; only after an alarm

    @property
    def is_waiting(self) -> bool:
        """Return whether a collective has begun here that has not ended."""
        return any(ended < begun for begun, ended in self.groups.values())

    @property
    def seen(self) -> str:
        """Return where the rank was last."""
        return f"after step {self.step}, {self.doing}"

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Beat:
        """Return the beat that `to_json` gave."""
        values = json.loads(text)
        groups = {name: (begun, ended) for name, (begun, ended) in values.pop("groups").items()}
        return cls(**{**values, "groups": groups, "stack": tuple(values["stack"])})


@dataclass(frozen=True)
class Verdict:
    """Why the ranks end: what is the matter with which rank, and where it was seen last."""

    kind: Kind
    rank: int
    host: str
    process: str
    step: int
    doing: str
    message: str

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Verdict:
        """Return the verdict that `to_json` gave."""
        return cls(**json.loads(text))


def verdict_on(beat: Beat, kind: Kind, message: str) -> Verdict:
    """Return what is the matter with the rank of a beat."""
    return Verdict(kind, beat.rank, beat.host, beat.process, beat.step, beat.doing, message)


class PeerLostError(TrainingError):
    """This rank ends because of another one; `verdict` says which."""

    def __init__(self, verdict: Verdict):
        super().__init__(verdict.message)
        self.verdict = verdict
