"""What an agent finds out about its host, asked directly."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from megabatch.launcher.hosts import look


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text("")
    look.nonce_file(tmp_path, "abc").write_text("abc")
    return tmp_path


def problems(run_dir: Path, folder: str = "/", nonce: str = "abc", meeting: str = "localhost") -> list[str]:
    found: list[str] = look.look(folder, str(run_dir), nonce, 2, meeting)["problems"]
    return found


def test_a_host_on_which_all_is_well_shows_that_it_has_the_run_folder(run_dir: Path) -> None:
    assert problems(run_dir) == []
    assert look.nonce_file(run_dir, "abc", 2).read_text() == "abc"


def test_everything_that_is_wrong_is_told_at_once(run_dir: Path) -> None:
    look.nonce_file(run_dir, "abc").write_text("of another folder")
    folder, share, name = problems(run_dir, folder="/no/such", meeting="nowhere.invalid")
    assert folder.startswith("has no folder /no/such")
    assert share.startswith(f"sees another run folder {run_dir} than the launcher")
    assert name.startswith("does not know the name nowhere.invalid")


def test_a_job_that_another_user_may_not_read_is_told(run_dir: Path) -> None:
    (run_dir / "job.yaml").unlink()  # root may read everything, so here it is not there at all
    (told,) = problems(run_dir)
    assert told.startswith(f"cannot read {run_dir}/job.yaml: No such file or directory. Log in as the user")


def test_a_folder_that_cannot_be_written_to_is_told(run_dir: Path) -> None:
    look.nonce_file(run_dir, "abc", 2).mkdir()
    (told,) = problems(run_dir)
    assert told.startswith(f"cannot write to the run folder {run_dir}: ")


def test_a_port_nobody_listens_at_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
        assert look.reach("127.0.0.1", port, 5) is None
        with pytest.raises(OSError, match=f"port {port} is taken at 127.0.0.1"):
            look.listener("127.0.0.1", port)
    told = look.reach("127.0.0.1", port, 5)
    assert told is not None
    assert "cannot reach the first host at 127.0.0.1" in told
    assert "Connection refused" in told


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(OSError, match=r"does not have the address 192\.0\.2\.1"):
        look.listener("192.0.2.1", 29500)
