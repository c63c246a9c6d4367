"""The oracle's tokens follow from seed and position alone."""

import subprocess
import sys

import pytest

from shared.sampling import SamplingParams
from worker.backend import Draw
from worker.oracle_backend import OracleBackend, OracleTokenizer, text, token

pytestmark = pytest.mark.anyio


def test_tokens_are_known() -> None:
    # pinned: streams of one release must be checkable by another
    assert [token(7, position) for position in range(3)] == [10966, 41785, 37408]
    assert text(7, 0, 3) == "29d6 a239 9120 "
    assert text(7, 1, 2) == "a239 9120 "
    assert len({token(seed, 0) for seed in range(1000)}) > 980
    assert all(256 <= token(seed, 2**40) < 256 + 2**16 for seed in (0, 2**63 - 1))


def test_a_text_is_its_bytes() -> None:
    tokenizer = OracleTokenizer()
    assert tokenizer.encode("aé", fresh=True) == [0x61, 0xC3, 0xA9]
    assert tokenizer.decode([0x61, 0xC3, 0xA9]) == "aé"
    assert tokenizer.decode([0x61, 0xC3]) == "a\ufffd"
    assert tokenizer.decode([0x61, 256, 256 + 0xABCD, 0x62]) == "a0000 abcd b"
    assert tokenizer.bos_id is not None
    assert tokenizer.decode([tokenizer.bos_id]) == "<s>"
    assert tokenizer.eos_ids == frozenset()


async def test_a_step_gives_the_token_of_its_position() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4)
    sampling = SamplingParams(seed=7)
    assert await session.step([1, 2], Draw(sampling, [1, 2], 0)) == token(7, 0)
    assert await session.step([9], Draw(sampling, [1, 2, 9], 5)) == token(7, 5)
    assert await session.step([9], Draw(sampling, [1, 2, 9, 9], 1)) == token(7, 1)
    with pytest.raises(ValueError, match="room"):
        await session.step([9], Draw(sampling, [1, 2, 9, 9, 9], 2))


def test_a_worker_of_oracles_needs_no_torch() -> None:
    code = "import sys, worker.__main__; print({'torch', 'transformers', 'petals', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
