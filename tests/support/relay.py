"""A bad line: passes frames between two network interfaces, each some time later, and loses some. For root.

    python relay.py INTERFACE INTERFACE DELAY_SECONDS LOSE_EVERY     # at its end (SIGTERM) it prints how many it lost

tc's netem does this, but not every kernel has it.
"""

from __future__ import annotations

import heapq
import select
import signal
import socket
import sys
import time

ETH_P_ALL, SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING = 3, 263, 15, 4
LARGEST = 70_000  # what the kernel would cut into packets later comes in one piece


def open_interface(name: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)  # checksums and lengths may not have been worked out yet
    opened.bind((name, 0))
    return opened


def relay(first: str, second: str, delay: float, lose_every: int) -> None:
    ends = [open_interface(first), open_interface(second)]
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    seen = lost = 0
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    print("ready", flush=True)
    while running:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
        for end in select.select(ends, [], [], min(patience, 0.1))[0]:
            frame, address = end.recvfrom(LARGEST)
            if address[2] == PACKET_OUTGOING:
                continue
            seen += 1
            if seen % lose_every == 0:
                lost += 1
                continue
            heapq.heappush(waiting, (time.monotonic() + delay, seen, ends[end is ends[0]], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            *_, other, frame = heapq.heappop(waiting)
            other.send(frame)
    print(lost, flush=True)


if __name__ == "__main__":
    relay(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
