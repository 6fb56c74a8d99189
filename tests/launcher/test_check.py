"""`megabatch check` tells what is here, and quickly: without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megabatch.data.jpeg import turbojpeg3
from megabatch.launcher import check


def test_every_fact_is_told_and_torch_is_not_imported() -> None:
    code = (
        "import sys; from megabatch.launcher.cli import app\n"
        "try: app(['check', '--json'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["deepspeed"] == "not installed" or facts["deepspeed"][0].isdigit()
    assert facts["simplejpeg"][0].isdigit()
    assert "simplejpeg" in facts["JPEG decoding"] or "libjpeg-turbo 3 (" in facts["JPEG decoding"]


def test_gpus_are_named_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   52\n")
    monkeypatch.setattr(check, "NVIDIA_DEVICES", tmp_path)
    assert check.machine_facts()["GPUs"] == "NVIDIA H200"


def test_a_library_that_decodes_to_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __init__(self, path: str):
            self.path = path

        def decode_region(self, payload: bytes, header: object, region: turbojpeg3.Region) -> object:
            return turbojpeg3.np.zeros((region.height, region.width, 3), turbojpeg3.np.uint8)

    monkeypatch.setattr(turbojpeg3, "TurboJpeg3", Wrong)
    turbojpeg3.find_turbojpeg3.cache_clear()
    try:
        found = turbojpeg3.find_turbojpeg3()
        assert found.library is None
        assert "other pixels than simplejpeg" in found.reason
    finally:
        turbojpeg3.find_turbojpeg3.cache_clear()


def test_a_library_older_than_3_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turbojpeg3, "_usual_places", lambda: ["libc.so.6"])  # has no tj3 functions either
    turbojpeg3.find_turbojpeg3.cache_clear()
    try:
        assert turbojpeg3.find_turbojpeg3().reason == "libc.so.6: older than 3.0"
    finally:
        turbojpeg3.find_turbojpeg3.cache_clear()
