"""The rules for tokens as transformers has them: what the worker's are compared with."""

import torch
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation import SequenceBiasLogitsProcessor

from shared.sampling import SamplingParams

VOCABULARY = 300
PROMPT = [3, 1, 4, 1, 5, 92, 65, 35]
SAID = [8, 9, 7, 9, 3, 1, 1]
EOS = 2


def logits(seed: int, rows: int = 1, vocabulary: int = VOCABULARY, coarse: bool = False) -> torch.Tensor:
    """Random rows; coarse ones have many ties."""
    made = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4
    return made.round() if coarse else made


def processed(rows: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """What transformers' processors make of logits, after PROMPT and SAID, with OpenAI's penalties among them."""
    ids = torch.tensor([PROMPT + SAID])
    first, last = LogitsProcessorList(), LogitsProcessorList()
    if sampling.logit_bias:
        first.append(SequenceBiasLogitsProcessor({(id,): float(bias) for id, bias in sampling.logit_bias.items()}))
    if sampling.repetition_penalty != 1:
        first.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.min_tokens:
        ends = [EOS, *sampling.stop_token_ids]
        last.append(MinNewTokensLengthLogitsProcessor(len(PROMPT), sampling.min_tokens, ends))
    scores = first(ids, rows.clone())
    counts = torch.bincount(torch.tensor(SAID), minlength=rows.shape[1])
    scores = scores - (sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0))
    result: torch.Tensor = last(ids, scores)
    return result


def warped(rows: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """What transformers' warpers make of logits; its later versions have min_p, before typical_p."""
    before, after = LogitsProcessorList(), LogitsProcessorList()
    if sampling.temperature != 1:
        before.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        before.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        before.append(TopPLogitsWarper(sampling.top_p))
    if sampling.typical_p < 1:
        after.append(TypicalLogitsWarper(sampling.typical_p))
    rows = before(torch.tensor([[0]]), rows.clone())
    if sampling.min_p:
        share = rows.softmax(-1)
        removed = share < sampling.min_p * share.max(-1, keepdim=True).values
        rows = rows.masked_fill(removed & (rows < rows.max(-1, keepdim=True).values), -torch.inf)
    result: torch.Tensor = after(torch.tensor([[0]]), rows)
    return result


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers that float32 has too."""
    return st.floats(low, high).map(lambda number: float(torch.tensor(number)))


def samplings(do_sample: st.SearchStrategy[bool]) -> st.SearchStrategy[SamplingParams]:
    """Any rules; each is off in about half of them."""
    return st.builds(
        SamplingParams,
        do_sample=do_sample,
        temperature=st.just(1.0) | floats(0.1, 8),
        top_k=st.just(0) | st.integers(1, 400),
        top_p=st.just(1.0) | floats(0.01, 0.999),
        min_p=st.just(0.0) | floats(0.001, 0.9),
        typical_p=st.just(1.0) | floats(0.05, 0.99),
        repetition_penalty=st.just(1.0) | floats(0.5, 2),
        presence_penalty=st.just(0.0) | floats(-2, 2),
        frequency_penalty=st.just(0.0) | floats(-2, 2),
        logit_bias=st.just({}) | st.dictionaries(st.integers(0, VOCABULARY - 1), floats(-100, 100), max_size=8),
        min_tokens=st.sampled_from([0, len(SAID), len(SAID) + 1]),
        stop_token_ids=st.lists(st.integers(0, VOCABULARY - 1), max_size=3, unique=True).map(tuple),
        seed=st.integers(0, 2**63 - 1),
    )


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the same tokens are left, with the same numbers but for the rounding of sums."""
    gone = torch.equal(one == -torch.inf, other == -torch.inf)
    return gone and torch.allclose(one, other, rtol=1e-6, atol=1e-5)
