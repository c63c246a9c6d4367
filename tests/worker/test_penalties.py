"""Bias, penalties and early endings, as transformers and OpenAI have them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidField
from shared.sampling import SamplingParams
from tests.worker.rules import EOS, PROMPT, SAID, VOCABULARY, logits, processed, same, samplings
from worker.backend import Draw
from worker.penalties import Penalties, Tally, penalize


def _penalties(sampling: SamplingParams) -> Penalties:
    return Penalties(Draw(sampling, PROMPT + SAID, len(PROMPT), eos_ids=frozenset({EOS})), VOCABULARY)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(repetition_penalty=1.3),
        SamplingParams(repetition_penalty=0.7),
        SamplingParams(logit_bias={0: 5.0, 92: -100.0}),
        SamplingParams(min_tokens=len(SAID) + 1, stop_token_ids=(9, 11)),
        SamplingParams(min_tokens=len(SAID), stop_token_ids=(9, 11)),
    ],
)
def test_each_rule_equals_that_of_transformers_to_the_bit(sampling: SamplingParams) -> None:
    rows = logits(2)
    assert torch.equal(penalize(rows.clone(), [_penalties(sampling)]), processed(rows, sampling))


def test_presence_and_frequency_count_what_was_said_and_not_the_prompt() -> None:
    rows = torch.zeros(1, VOCABULARY)
    penalize(rows, [_penalties(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25))])
    assert {id: float(rows[0, id]) for id in (1, 3, 7, 8, 9, 92)} == {
        1: -1.0,
        3: -0.75,
        7: -0.75,
        8: -0.75,
        9: -1.0,
        92: 0.0,
    }


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.lists(samplings(st.just(False)), min_size=1, max_size=5), st.integers(0, 1000))
def test_any_rules_for_any_rows_together_equal_those_of_transformers(params: list[SamplingParams], seed: int) -> None:
    rows = logits(seed, rows=len(params))
    alone = torch.cat([processed(row.unsqueeze(0), each) for row, each in zip(rows, params, strict=True)])
    assert same(penalize(rows.clone(), [_penalties(each) for each in params]), alone)


def test_a_bias_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidField, match="`logit_bias` may name tokens from 0 to 299, but names 300") as refused:
        _penalties(SamplingParams(logit_bias={1: 1.0, VOCABULARY: 1.0}))
    assert refused.value.field == "logit_bias"


def test_a_tally_follows_a_list_that_grows() -> None:
    ids = [7, 7, 5]
    tally = Tally(ids, 1)
    assert [each.tolist() for each in tally.count()] == [[7, 5], [1, 1]]
    ids += [*range(100, 300), 5]
    seen, counts = tally.count()
    assert seen.tolist() == [7, 5, *range(100, 300)]
    assert counts.tolist() == [1, 2] + [1] * 200
