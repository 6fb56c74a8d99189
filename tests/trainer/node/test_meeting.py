"""Where ranks meet: at one address, over one interface, and never by what an outer job says."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.node.meeting import STORE_SOCKET, meeting_at, meeting_on_this_machine, store_of_meeting


def test_on_one_machine_nothing_leaves_the_loopback_interface() -> None:
    meeting = meeting_on_this_machine()
    try:
        assert meeting.socket is not None
        assert meeting.socket.getsockname() == ("127.0.0.1", meeting.port)
        first, second = meeting.environment(0), meeting.environment(1)
    finally:
        meeting.close()
    assert first[STORE_SOCKET] != ""
    assert second == {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": first["MASTER_PORT"], STORE_SOCKET: "", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip


def test_variables_of_an_outer_job_do_not_move_the_meeting_but_the_user_chooses_the_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("MASTER_ADDR", "10.9.9.9"), ("MASTER_PORT", "1"), ("GLOO_SOCKET_IFNAME", "ib0")):
        monkeypatch.setenv(name, value)
    meeting = meeting_on_this_machine()
    meeting.close()
    told = meeting.environment(0)
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("127.0.0.1", str(meeting.port))
    assert told["GLOO_SOCKET_IFNAME"] == "ib0"


def test_a_port_that_is_taken_is_told_with_the_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrainingError, match=f"{socket.gethostname()}: rank 0 cannot listen at {endpoint}: Address"):
            meeting_at(endpoint, has_rank_0=True)
        meeting_at(endpoint, has_rank_0=False)


def test_an_address_of_another_machine_cannot_be_served_here() -> None:
    with pytest.raises(TrainingError, match="Name an address of the first node"):
        meeting_at("192.0.2.1:29500", has_rank_0=True)


def test_a_name_that_has_no_address_is_told() -> None:
    with pytest.raises(TrainingError, match=r"no-such-host\.invalid has no address here"):
        meeting_at("no-such-host.invalid:29500", has_rank_0=False)


def test_ipv6_addresses_are_understood() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    meeting = meeting_at("[::1]:0", has_rank_0=True)
    assert meeting.address == "::1"
    assert meeting.environment(1)["GLOO_SOCKET_IFNAME"] == "lo"
    meeting.close()


def test_under_another_launcher_torch_finds_its_own_store() -> None:
    assert store_of_meeting(2, timedelta(seconds=1), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}) is None
