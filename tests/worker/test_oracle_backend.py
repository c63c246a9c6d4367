"""The oracle's tokens follow from seed and position alone."""

import subprocess
import sys

import pytest

from shared.sampling import SamplingParams
from worker.backend import Choice, Draw
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


def test_every_id_has_its_bytes() -> None:
    tokenizer = OracleTokenizer()
    assert [tokenizer.piece(id) for id in (0xC3, 256 + 0xABCD, 256 + 2**16)] == [b"\xc3", b"abcd ", b"<s>"]
    assert tokenizer.special_ids == {tokenizer.bos_id}


async def test_a_step_gives_the_token_of_its_position() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4)
    draw = Draw(SamplingParams(seed=7), ids := [1, 2], start=2)
    assert await session.step([[1, 2]], [draw]) == [Choice(token(7, 0))]
    ids.append(9)
    assert await session.step([[9]], [draw]) == [Choice(token(7, 1))]
    # a piece of a prompt gives nothing
    assert await session.step([[9]], []) == []
    with pytest.raises(ValueError, match="room"):
        await session.step([[9, 9]], [draw])


async def test_each_row_draws_by_a_seed_of_its_own() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4, rows=3)
    draws = [Draw(SamplingParams(seed=2**63 - 1), [1], 1, row) for row in range(3)]
    expected = [Choice(token(2**63 - 1 + row, 0)) for row in range(3)]
    assert await session.step([[1]] * 3, draws) == expected


async def test_it_is_sure_of_its_token() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4)
    id = token(7, 0)
    for logprobs, top in ((None, ()), (0, ()), (5, ((id, 0.0),))):
        draw = Draw(SamplingParams(seed=7, logprobs=logprobs), [1], 1)
        assert await session.step([[1]], [draw]) == [Choice(id, None if logprobs is None else 0.0, top)]


async def test_what_was_said_is_as_likely_as_its_id_tells() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4)
    draws = [Draw(SamplingParams(logprobs=logprobs), (), 0, known=64) for logprobs in (0, 2)]
    assert await session.score([1, 64], draws) == [Choice(64, -0.25), Choice(64, -0.25, ((64, -0.25),))]


async def test_its_ranks_are_the_tokens_of_the_next_seeds() -> None:
    session = OracleBackend(step_ms=0).open(max_length=4)
    (choice,) = await session.step([[1]], [Draw(SamplingParams(seed=7), [1], 1, ranked=3)])
    assert choice == Choice(token(7, 0), ranked=((token(7, 0), 0.0), (token(8, 0), -1.0), (token(9, 0), -2.0)))


def test_a_worker_of_oracles_needs_no_torch() -> None:
    code = "import sys, worker.__main__; print({'torch', 'transformers', 'petals', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
