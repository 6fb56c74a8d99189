"""Decoding a region of a JPEG with libjpeg-turbo 3 or newer (tj3SetCroppingRegion), called through ctypes.

The library is in no wheel; conda, recent distributions and the project's own packages have it. It is looked for once
in a process, in the environment of this Python, where the system's loader looks (so LD_LIBRARY_PATH can name a folder)
and in /opt/libjpeg-turbo, and used only if it decodes test images to the very pixels that simplejpeg does.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from megabatch.data.jpeg.header import JpegHeader, Region, read_header

_NAME = "libturbojpeg.so.0"
_DECOMPRESS, _RGB = 1, 0  # TJINIT_DECOMPRESS, TJPF_RGB
_STOP_ON_WARNING = 0  # TJPARAM_STOPONWARNING


class _TjRegion(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int)]


class TurboJpeg3:
    """A loaded library; each thread gets a decompressor of its own, because they are not thread-safe."""

    def __init__(self, path: str):
        """Load it. Raises OSError or AttributeError if it is not there or older than 3.0."""
        self.path = path
        self._library = _declared(ctypes.CDLL(path))
        self._threads = threading.local()

    def decode_region(
        self, payload: memoryview | bytes, header: JpegHeader, region: Region
    ) -> NDArray[np.uint8] | None:
        """Return the region as uint8 RGB, equal to that part of a full decode; None if the library complains."""
        outer = _with_margin(header, region)
        pixels = np.empty((outer.height, outer.width, 3), dtype=np.uint8)
        data = np.frombuffer(payload, dtype=np.uint8)
        library, handle = self._library, self._handle()
        source, size = data.ctypes.data, len(data)
        if (
            library.tj3DecompressHeader(handle, source, size)
            or library.tj3SetCroppingRegion(handle, _TjRegion(outer.left, outer.top, outer.width, outer.height))
            or library.tj3Decompress8(handle, source, size, pixels.ctypes.data, 0, _RGB)
        ):
            return None
        top, left = region.top - outer.top, region.left - outer.left
        return pixels[top : top + region.height, left : left + region.width]

    def _handle(self) -> int:
        kept = getattr(self._threads, "handle", None)
        if kept is None:
            kept = self._threads.handle = _Handle(self._library)
        pointer: int = kept.pointer
        return pointer


class _Handle:
    """A decompressor, destroyed with the thread that made it."""

    def __init__(self, library: Any):
        self._destroy = library.tj3Destroy
        self.pointer = library.tj3Init(_DECOMPRESS)
        if not self.pointer:
            raise MemoryError("tj3Init")
        library.tj3Set(self.pointer, _STOP_ON_WARNING, 1)

    def __del__(self) -> None:
        if self.pointer:
            self._destroy(self.pointer)


def _with_margin(header: JpegHeader, region: Region) -> Region:
    """Begin at a coded unit; with subsampled colour take a unit more around, whose samples the upsampling mixes in."""
    across = header.unit_width if header.subsampled else 0
    down = header.unit_height if header.subsampled else 0
    left = max(region.left - across, 0) // header.unit_width * header.unit_width
    top = max(region.top - down, 0)
    right = min(region.left + region.width + across, header.width)
    bottom = min(region.top + region.height + down, header.height)
    return Region(top, left, bottom - top, right - left)


def _declared(library: Any) -> Any:  # Any: ctypes makes the functions of a library up as it goes
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[list[Any], Any]] = {
        "tj3Init": ([integer], pointer),
        "tj3Destroy": ([pointer], None),
        "tj3Set": ([pointer, integer, integer], integer),
        "tj3DecompressHeader": ([pointer, pointer, size], integer),
        "tj3SetCroppingRegion": ([pointer, _TjRegion], integer),
        "tj3Decompress8": ([pointer, pointer, size, pointer, integer, integer], integer),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


class Found(NamedTuple):
    """The library, or why there is none."""

    library: TurboJpeg3 | None
    reason: str


@cache
def find_turbojpeg3() -> Found:
    """Look for the library and test it, once in a process."""
    reasons = []
    for path in _usual_places():
        try:
            library = TurboJpeg3(path)
        except (OSError, AttributeError) as error:
            reasons.append(f"{path}: older than 3.0" if isinstance(error, AttributeError) else str(error))
            continue
        if _agrees_with_simplejpeg(library):
            return Found(library, "")
        reasons.append(f"{path}: decodes the test image to other pixels than simplejpeg")
    return Found(None, "; ".join(reasons))


def _usual_places() -> list[str]:
    folders = (Path(sys.prefix, "lib"), Path("/opt/libjpeg-turbo/lib64"))
    return [str(folder / _NAME) for folder in folders if (folder / _NAME).exists()] + [_NAME]


def _agrees_with_simplejpeg(library: TurboJpeg3) -> bool:
    rows, columns = np.mgrid[0:96, 0:112]
    image = np.stack([rows * 2, columns * 2, (rows * columns) % 251], axis=2).astype(np.uint8)
    for sampling in ("444", "420"):
        payload = simplejpeg.encode_jpeg(image, quality=90, colorsubsampling=sampling)
        header = read_header(payload)
        region = Region(21, 35, 40, 50)
        got = library.decode_region(payload, header, region) if header else None
        expected = simplejpeg.decode_jpeg(payload, "RGB")[21:61, 35:85]
        if got is None or not np.array_equal(got, expected):
            return False
    return True
