"""Where the model's own part runs, and in which number format."""

import os
from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_SMALL_HEAD = 2**24  # weights; one core multiplies a row by so many in a few milliseconds


def choose_dtype(name: DtypeName, device: str) -> torch.dtype | Literal["auto"]:
    """The format for embeddings and head; the result "auto" means the checkpoint's own.

    auto: on CUDA the checkpoint's own; on a CPU with AVX512 bfloat16, which halves the memory; on others float32,
    because 16 bit numbers cost them a second or more per token.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.startswith("cuda"):
        return "auto"
    return torch.bfloat16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float32


def choose_threads(head_weights: int) -> int:
    """Threads for one tensor operation: a large head wants every core, a small one is slower when shared."""
    return 1 if head_weights <= _SMALL_HEAD else len(os.sched_getaffinity(0))
