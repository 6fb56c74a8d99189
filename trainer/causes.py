"""What a person can do about errors that are the machine's and not ours: memory, disks, open files."""

from __future__ import annotations

import errno

import torch

from megabatch.data.errors import open_files_advice
from megabatch.trainer.errors import TrainingError, first_line

# What a failed allocation is called: by torch's allocator, C++, oneDNN and the kernel; by CUDA, cuDNN and cuBLAS.
_NO_MEMORY = (
    "not enough memory", "can't allocate memory", "bad_alloc", "could not create a ", "Cannot allocate memory",
    "out of memory", "ALLOC_FAILED",
)  # fmt: skip
_DISK = {
    errno.ENOSPC: "Make room, then go on with --resume",
    errno.EDQUOT: "Make room, then go on with --resume",
    errno.EROFS: "Make it writable again, then go on with --resume",
    errno.EACCES: "Make it readable and writable for this user",
    errno.EPERM: "Make it readable and writable for this user",
    errno.EIO: "The disk or the file server is broken: see the kernel's log (dmesg)",
    errno.ESTALE: "The file server has forgotten the file: is it the same one as before? Then go on with --resume",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def explained(error: Exception) -> TrainingError | None:
    """Return the error as a message with a remedy, its cause beneath; None for what is somebody's programming error."""
    message = _message(error)
    if message is None:
        return None
    told = TrainingError(message)
    told.__cause__ = error
    return told


def _message(error: Exception) -> str | None:
    if is_out_of_memory(error):
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return (
            f"out of memory: {first_line(error)}{where}. A smaller batch.micro_batch needs less and trains the same "
            "(`megabatch tune batch` finds one that fits); so does engine=fsdp, and fewer cluster.loader_threads"
        )
    if isinstance(error, TimeoutError):
        return str(error)
    if isinstance(error, OSError):
        advice = _DISK.get(error.errno or 0) or open_files_advice(error)
        return f"{error.filename or 'input or output'}: {error.strerror}. {advice}" if advice else None
    return None
