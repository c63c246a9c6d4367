"""Number formats and threads."""

import pytest
import torch

from worker.devices import choose_dtype, choose_threads


@pytest.mark.parametrize(
    ("name", "device", "capability", "expected"),
    [
        ("auto", "cuda", "DEFAULT", "auto"),
        ("auto", "cuda:1", "AVX512", "auto"),
        ("auto", "cpu", "AVX512", torch.bfloat16),
        ("auto", "cpu", "AVX2", torch.float32),
        ("float32", "cpu", "AVX512", torch.float32),
        ("bfloat16", "cpu", "AVX2", torch.bfloat16),
        ("float16", "cuda", "DEFAULT", torch.float16),
    ],
)
def test_dtype(
    monkeypatch: pytest.MonkeyPatch, name: str, device: str, capability: str, expected: torch.dtype | str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose_dtype(name, device) == expected  # type: ignore[arg-type]


def test_only_a_large_head_gets_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    assert choose_threads(2_000 * 256) == 1
    assert choose_threads(32_000 * 8192) == 6
