"""A checkpoint that rank 0 has and this host does not see yet is waited for, until all of it is there."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from megabatch.trainer import agreed


def test_a_rank_waits_until_it_sees_every_file_in_full(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000004"
    waiting = threading.Thread(target=agreed.wait_until_seen, args=(folder,))
    waiting.start()
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"model.safetensors": {"bytes": 4}}))
    (folder / "model.safetensors").write_bytes(b"123")
    waiting.join(timeout=0.5)
    assert waiting.is_alive()
    (folder / "model.safetensors").write_bytes(b"1234")
    waiting.join(timeout=60)
    assert not waiting.is_alive()


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed, "_SECONDS_TO_BE_SEEN", 0.2)
    began = time.monotonic()
    agreed.wait_until_seen(tmp_path / "step-00000004")
    assert time.monotonic() - began >= 0.2
