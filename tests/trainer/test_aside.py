"""Work that nobody waits for: done in order, and left out where a disk hangs or is full."""

from __future__ import annotations

import threading

from megabatch.trainer.aside import Aside


def test_work_is_done_in_order_and_an_error_of_the_disk_is_passed_over() -> None:
    done: list[int] = []

    def full() -> None:
        raise OSError(28, "No space left on device")

    aside = Aside()
    for work in (lambda: done.append(1), full, lambda: done.append(2)):
        aside.begin(work)
    aside.wait(10)
    assert done == [1, 2]
    aside.begin(lambda: done.append(3))
    aside.wait(10)
    assert done == [1, 2, 3]


def test_what_hangs_holds_nobody_up_and_of_what_waits_the_newest_is_done() -> None:
    begun, hangs, done = threading.Event(), threading.Event(), list[int]()

    def hang() -> None:
        begun.set()
        hangs.wait(30)

    aside = Aside()
    aside.begin(hang)
    begun.wait(30)
    for number in range(10):
        aside.begin(lambda number=number: done.append(number))
    aside.wait(0.05)
    assert done == []
    hangs.set()
    aside.wait(10)
    assert done == [6, 7, 8, 9]
