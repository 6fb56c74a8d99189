"""The thread in every rank that tells the others that it lives, and looks whether they do.

It talks through the store in which the ranks found each other, over a connection of its own: a collective that hangs
does not hold it up. Once a second or so it writes a beat, and reads those of at most two neighbours and the one word
that all share: nothing, then perhaps an alarm (a rank waits too long in a collective: every rank is to write down what
it is doing, and who gave the alarm judges), in the end a verdict. With a verdict every rank ends: its main thread if it
can, else this thread ends the process.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from megabatch.configs.cluster import Limits
from megabatch.trainer.watch import doing, processes, rules, shown
from megabatch.trainer.watch.beats import Beat, PeerLostError, Verdict, verdict_on
from megabatch.trainer.watch.peers import is_of_peer, is_timeout

QUIET = "-"  # the shared word while nothing is the matter
_GRACE_SECONDS = 5.0  # for the main thread to end by itself after a verdict: it may let a checkpoint be finished
_GOODBYE_SECONDS = 10.0  # at most, if the store gives no answer
_CLOSING_SECONDS = 30.0  # for the main thread to close everything after a verdict; torchrun leaves it as long
_HURRY = 5  # times as many looks when something is the matter
_PATIENCE = 4  # intervals in which a death on the same machine is found for sure
_INTERVALS_TO_ANSWER = (2, 6)  # after an alarm: until who gave it judges, and until whoever has not answered is silent
_SHARE_LOOKS = 30  # over which the share of waiting is taken
_READ_AT_ONCE = 1024
_SHOW_SECONDS = 4.0


@dataclass(frozen=True)
class Place:
    """Which rank this is, where, and whom it looks at."""

    rank: int
    num_ranks: int
    host: str
    device: torch.device
    watched: tuple[int, ...]


class Watch:
    """One rank's watch. `end` is called from its thread when the main thread did not end after a verdict."""

    def __init__(
        self,
        place: Place,
        connect: Callable[[], dist.Store],  # type: ignore[name-defined]  # public, but not in __all__
        limits: Limits,
        end: Callable[[Verdict], None],
        tell: Callable[[str], None],
        show: Callable[[Sequence[Beat]], None] | None = None,
    ):
        self.verdict: Verdict | None = None
        self._place = place
        self._connect = connect
        self._store = connect()
        self._limits = limits
        self._end = end
        self._tell = tell
        self._show = show  # the beats of all ranks now and then; only of rank 0
        self._shown_at = float("-inf")
        self._interval = rules.interval_of(limits.silent_seconds, place.num_ranks)
        self._step: Callable[[], int] | None = None  # not before the training is made
        self._process = processes.this_process()
        self._number = 0  # of the last beat
        self._waited: deque[bool] = deque(maxlen=_SHARE_LOOKS)
        self._waited_for_data: deque[bool] = deque(maxlen=_SHARE_LOOKS)
        now = time.monotonic()
        self._silence = {rank: rules.Unchanged(self._interval, now) for rank in place.watched}
        self._in_flight = rules.Unchanged(self._interval, now)
        self._seen_gone: set[int] = set()
        self._found_slow: set[int] = set()
        self._alarm: str | None = None  # the word as it was when it became an alarm
        self._alarmed_at = 0.0
        self._gives_alarm = False
        self._collective: str | None = None
        self._own_fault: Verdict | None = None
        self._answered = 0  # the last beat after which the store gave an answer
        self._main_waits = False
        self._decided, self._ended, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._guard = threading.Thread(target=self._watch_store, name="watch-store", daemon=True)
        self._store.set(self._key(place.rank), self._beat().to_json())
        if place.rank == 0:
            self._store.set("word", QUIET)
            self._store.set("slow", QUIET)

    def start(self) -> None:
        """Begin; every rank must have been made by now."""
        self._thread.start()
        self._guard.start()

    def follow(self, step: Callable[[], int]) -> None:
        """Tell the others from here on how many steps are finished."""
        self._step = step

    def explain(self, error: Exception) -> Exception:
        """Return what to say instead of an error of the main thread: whose fault it is, where another rank's it is.

        An error that other ranks may have caused waits some seconds for a verdict. Any other is made known to them.
        """
        if not is_of_peer(error):
            about = f"rank {self._place.rank} on {self._place.host} failed: {type(error).__name__}: {error}"
            self._own_fault = verdict_on(self._beat(), "failed", about)
            return error
        self._gives_alarm = is_timeout(error)
        self._main_waits = True
        self._wake.set()
        self._decided.wait(_PATIENCE * self._interval)
        if self._gives_alarm or self._alarm is not None:  # who gave it hears everybody first
            self._decided.wait((_INTERVALS_TO_ANSWER[1] + _PATIENCE) * self._interval)
        return error if self.verdict is None else PeerLostError(self.verdict)

    def finish(self) -> None:
        """End the watch: this rank waits for no other one any more. The others are told that it is not missed."""
        self._ended.set()
        self._wake.set()
        self._thread.join(_GOODBYE_SECONDS)
        if self.verdict is not None:  # what is left to close may wait for the lost rank too
            closing = threading.Timer(_CLOSING_SECONDS, self._end, [self.verdict])
            closing.daemon = True
            closing.start()

    def _key(self, rank: int) -> str:
        return f"beat/{rank}"

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
            except RuntimeError:  # the connection is lost; the other thread counts for how long
                with suppress(RuntimeError):
                    self._store = self._connect()
            if self.verdict is not None:
                self._leave(self.verdict)
                return
            hurry = self._main_waits or self._alarm is not None or self._seen_gone
            self._wake.wait(self._interval / _HURRY if hurry else self._interval)
            self._wake.clear()
        with suppress(RuntimeError):  # who hosted the store may have left already
            self._say_goodbye()

    def _look(self) -> None:
        self._number += 1
        beat = self._beat()
        self._store.set(self._key(self._place.rank), beat.to_json())
        word, slow, *others = self._store.multi_get(["word", "slow", *map(self._key, self._place.watched)])
        self._answered = self._number
        self._read_word(word)
        if self.verdict is None:
            self._look_at([Beat.from_json(other) for other in others], beat)
            self._look_at_own(beat)
        if self._place.rank == 0 and slow != QUIET.encode():
            self._tell(f"warning: {slow.decode()}")
            self._store.set("slow", QUIET)
        if self._show is not None and time.monotonic() - self._shown_at > _SHOW_SECONDS:
            self._shown_at = time.monotonic()
            self._show(self._all_beats())

    def _beat(self) -> Beat:
        """Return this rank's sign of life; after an alarm with all that it knows about itself."""
        frame, groups = doing.main_frame(), doing.collectives(self._place.device)
        step, act = (self._step(), doing.activity(frame)) if self._step is not None else (0, "starting")
        memory = (shown.memory_bytes(), shown.gpu_memory_bytes(self._place.device))
        beat = Beat(self._place.rank, self._place.host, self._process, self._number, step, act, groups, *memory)
        self._waited.append(beat.is_waiting)
        self._waited_for_data.append(doing.WAITING_FOR_DATA in act)
        if len(self._waited) == _SHARE_LOOKS:
            shares = [sum(looks) / _SHARE_LOOKS for looks in (self._waited, self._waited_for_data)]
            beat = replace(beat, waits=shares[0], waits_for_data=shares[1])
        if self._alarm is None:
            return beat
        if self._collective is None:
            self._collective = doing.last_collective(self._place.device)
        return replace(beat, stack=tuple(doing.stack(frame)), collective=self._collective)

    def _read_word(self, word: bytes) -> None:
        text = word.decode()
        if text == QUIET:
            if self._gives_alarm:
                self._store.compare_set("word", QUIET, json.dumps({"alarm": self._place.rank}))
            return
        values = json.loads(text)
        if "alarm" not in values:
            self._decide(Verdict.from_json(word))
            return
        if self._alarm is None:
            self._alarmed_at = time.monotonic()
        self._alarm = text
        waited = time.monotonic() - self._alarmed_at
        least, most = (intervals * self._interval for intervals in _INTERVALS_TO_ANSWER)
        if values["alarm"] == self._place.rank and waited > least:
            self._judge(text, may_wait=waited < most)
        elif waited > self._limits.silent_seconds:  # who gave the alarm cannot judge any more
            silent = Beat.from_json(self._store.get(self._key(values["alarm"])))
            self._accuse(rules.silent(silent, self._beat(), waited, self._limits.silent_seconds))

    def _judge(self, alarm: str, may_wait: bool) -> None:
        """Read what all ranks have written down after the alarm of this one, and decide."""
        beats = self._all_beats()
        if may_wait and any(rules.is_mute(beat) for beat in beats):
            return
        verdict = rules.stuck(beats, self._limits.collective_timeout_seconds)
        self._store.compare_set("word", alarm, verdict.to_json())

    def _all_beats(self) -> list[Beat]:
        keys = [self._key(rank) for rank in range(self._place.num_ranks)]
        beats: list[Beat] = []
        for first in range(0, len(keys), _READ_AT_ONCE):
            beats += map(Beat.from_json, self._store.multi_get(keys[first : first + _READ_AT_ONCE]))
        return beats

    def _look_at(self, others: list[Beat], own: Beat) -> None:
        """Find out whether the neighbours live, and whether one of them is slow."""
        now = time.monotonic()
        for other in others:
            if other.finished:
                self._seen_gone.discard(other.rank)
                continue
            seconds = self._silence[other.rank].seconds(other.number, now)
            if other.rank in self._seen_gone:  # this beat was read after the process had been seen to be gone
                self._accuse(rules.gone(other, own))
            elif processes.is_gone(other.process):
                self._seen_gone.add(other.rank)
            elif seconds >= self._limits.silent_seconds:
                self._accuse(rules.silent(other, own, seconds, self._limits.silent_seconds))
            elif other.rank not in self._found_slow and (remark := rules.slow(own, other)):
                self._found_slow.add(other.rank)
                self._store.compare_set("slow", QUIET, remark)

    def _look_at_own(self, own: Beat) -> None:
        """Give the alarm if the GPU waits too long; on the CPU gloo raises an error in the main thread instead."""
        waiting = (own.step, tuple(own.groups.items())) if own.is_waiting else own.number
        seconds = self._in_flight.seconds(waiting, time.monotonic())
        if self._place.device.type == "cuda" and seconds >= self._limits.collective_timeout_seconds:
            self._gives_alarm = True

    def _accuse(self, verdict: Verdict) -> None:
        before = self._alarm or QUIET
        word = self._store.compare_set("word", before, verdict.to_json())
        self._read_word(word)

    def _decide(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._decided.set()

    def _leave(self, verdict: Verdict) -> None:
        """Make an end: of the silent process if it is here, and of this one if its main thread does not."""
        if verdict.kind == "silent" and verdict.process != self._process:
            processes.kill(verdict.process)  # torchrun would wait for it half a minute
        if not self._ended.wait(_GRACE_SECONDS):
            self._end(verdict)

    def _say_goodbye(self) -> None:
        if self._own_fault is not None and self.verdict is None:
            self._store.compare_set("word", self._alarm or QUIET, self._own_fault.to_json())
        self._number += 1
        self._store.set(self._key(self._place.rank), replace(self._beat(), finished=True).to_json())
        self._store.multi_get(["word"])  # an answer: what was sent before has arrived

    def _watch_store(self) -> None:
        """End the run if the store gives no answer: what hosts it, rank 0 or torchrun, is stopped or dead."""
        silence = rules.Unchanged(self._interval, time.monotonic())
        while not self._ended.wait(self._interval):
            seconds = silence.seconds(self._answered, time.monotonic())
            if self.verdict is None and seconds >= self._limits.silent_seconds:
                self._decide(rules.no_store(self._beat(), seconds, self._limits.silent_seconds))
                assert self.verdict is not None
                self._leave(self.verdict)
                return
