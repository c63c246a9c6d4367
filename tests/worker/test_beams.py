"""Beam search finds what transformers' generate finds, token for token."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import BeamSearchScorer, LlamaForCausalLM

from shared.messages import JobFinished, JobRequest, Token
from shared.sampling import BeamParams, SamplingParams
from tests.tiny_model import EOS_ID, make_tiny_model
from worker.backend import Choice, Draw
from worker.beams import BeamSearch
from worker.choices import Answers, Beams
from worker.prompts import Plan
from worker.sessions import Sessions
from worker.tokenizer import FastTokenizer, load_tokenizer

pytestmark = pytest.mark.anyio

PROMPTS = ([0, 40, 51, 62], [0, 300], [0, 7, 77, 177, 277, 99, 17])
NEVER: dict[bool | None, bool | str] = {True: True, False: False, None: "never"}  # our word: transformers' word


class LocalSession:
    """The model's own attention cache, its rows reordered as generate does it."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._model = model
        self._past: Any = None

    async def step(
        self, ids: Sequence[Sequence[int]], draws: Sequence[Draw], parents: Sequence[int] | None = None
    ) -> list[Choice]:
        if parents:
            self._past = self._model._reorder_cache(self._past, torch.tensor(parents))
        with torch.inference_mode():
            output = self._model(torch.tensor(ids), past_key_values=self._past, use_cache=True)
        self._past = output.past_key_values
        scores = output.logits[:, -1].log_softmax(-1)
        return [_ranked(row, draw.ranked) for row, draw in zip(scores, draws, strict=bool(draws))]

    async def total(self, ids: Sequence[int]) -> Sequence[float]:
        raise AssertionError

    async def score(self, ids: Sequence[int], draws: Sequence[Draw]) -> list[Choice]:
        raise AssertionError

    async def close(self) -> None:
        self._past = None


def _ranked(row: torch.Tensor, count: int) -> Choice:
    best = row.topk(count)
    ranked = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(ranked[0][0], ranked=ranked)


class LocalBackend:
    """A model in this process, for beam search."""

    def __init__(self, network: LlamaForCausalLM, tokenizer: FastTokenizer) -> None:
        self.tokenizer = tokenizer
        self.network = network

    def open(self, max_length: int, rows: int = 1) -> LocalSession:
        return LocalSession(self.network)

    def coverage(self) -> None:
        raise AssertionError

    async def stop(self) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder, blocks=2)
    torch.set_num_threads(1)
    network = LlamaForCausalLM.from_pretrained(folder).eval()
    return LocalBackend(network, load_tokenizer(str(folder), None, network.generation_config))


def theirs(
    model: LocalBackend, prompt: list[int], params: BeamParams, count: int, tokens: int, ends: list[int]
) -> list[list[int]]:
    """Transformers' answers, best first."""
    found = model.network.generate(
        torch.tensor([prompt]),
        num_beams=params.beams,
        length_penalty=params.length_penalty,
        early_stopping=NEVER[params.early_stopping],
        num_return_sequences=count,
        max_new_tokens=tokens,
        eos_token_id=ends,
        pad_token_id=-1,
    )
    return [[id for id in row if id >= 0] for row in found[:, len(prompt) :].tolist()]


async def ours(
    model: LocalBackend, prompt: list[int], params: BeamParams, count: int, tokens: int, ends: list[int]
) -> list[list[int]]:
    """Our answers, best first; the token that ended one is written as transformers does, as the first that may."""
    sampling = SamplingParams(ignore_eos=True, stop_token_ids=tuple(ends))
    request = JobRequest("m", sampling, choices=count, beams=params)
    answers = Beams(request, Plan(prompt, len(prompt), 0, tokens, None), model.tokenizer, params, 0)
    found = await decode(answers, model)
    assert isinstance(answers.ending, JobFinished)
    assert answers.ending.completion_tokens == len(found)
    choices = [[token.id for token in found if token.choice == choice] for choice in range(count)]
    return [[*ids[:-1], ends[0] if ids[-1] in ends else ids[-1]] for ids in choices]


async def decode(answers: Answers, model: LocalBackend) -> list[Token]:
    """What a job gives, decoded as the engine does it."""
    tokens: list[Token] = []
    with Sessions(kept=0, idle_s=1).borrow(None, model, answers.ids, answers.positions) as cache:
        while not answers.ending:
            tokens += answers.push(await cache.feed(answers.ids, answers.draws, answers.parents))
    return tokens


def frequent(model: LocalBackend, prompt: list[int], count: int) -> list[int]:
    """Tokens that a search soon comes upon."""
    ids = torch.tensor([prompt])
    found = model.network.generate(ids, num_beams=8, num_return_sequences=8, max_new_tokens=6, pad_token_id=-1)
    seen = Counter(id for row in found[:, len(prompt) :].tolist() for id in row)
    return [id for id, _ in seen.most_common() if id >= 0][1 : count + 1]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("ends", [0, 1, 5], ids="{} frequent".format)
async def test_it_finds_what_transformers_finds(model: LocalBackend, prompt: list[int], ends: int) -> None:
    ending = [EOS_ID, *frequent(model, prompt, ends)]
    for beams, penalty, early in itertools.product((2, 5), (-1.0, 1.0, 2.0), (True, False, None)):
        params = BeamParams(beams, penalty, early)
        for count, tokens in ((1, 1), (1, 20), (beams, 12)):
            expected = theirs(model, prompt, params, count, tokens, ending)
            assert await ours(model, prompt, params, count, tokens, ending) == expected, params


class Table:
    """A model of some words: the scores of what follows depend on all that went before, and on the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._dice = torch.Generator()
        self.words = 6 + seed % 7
        self.sharpness = (0.3, 1.0, 3.0, 9.0)[seed % 4]

    def scores(self, ids: Sequence[int]) -> torch.Tensor:
        self._dice.manual_seed(hash((self._seed, *ids)) % 2**63)
        return (self.sharpness * torch.randn(self.words, generator=self._dice)).log_softmax(-1)

    def choose(self, ids: Sequence[int], ranked: int) -> Choice:
        return _ranked(self.scores(ids), min(ranked, self.words))


def by_scorer(
    table: Table, params: BeamParams, before: list[int], max_length: int, ends: list[int]
) -> tuple[list[list[int]], list[float], int]:
    """What transformers' scorer keeps of that table's words, best first, in the loop that generate has around it; the
    last beams' sums, and their length."""
    early = NEVER[params.early_stopping]
    kept: dict[str, Any] = {"num_beam_hyps_to_keep": params.beams, "max_length": max_length}
    scorer = BeamSearchScorer(1, params.beams, torch.device("cpu"), params.length_penalty, early, **kept)
    ids = torch.tensor([before] * params.beams)
    sums = torch.tensor([0.0] + [-1e9] * (params.beams - 1))
    marks: dict[str, Any] = {"pad_token_id": -1, "eos_token_id": ends}
    while True:
        scores = torch.stack([table.scores(row) for row in ids.tolist()]) + sums[:, None]
        best = scores.view(1, -1).topk(min(max(2, 1 + len(ends)) * params.beams, scores.numel()))
        rows, tokens = best.indices // table.words, best.indices % table.words
        grown = scorer.process(ids, best.values, tokens, rows, **marks)
        sums, rows = grown["next_beam_scores"], grown["next_beam_indices"]
        ids = torch.cat([ids[rows], grown["next_beam_tokens"][:, None]], dim=-1)
        if scorer.is_done or ids.shape[-1] >= max_length:
            break
    found = scorer.finalize(ids, sums, tokens, rows, max_length=max_length, **marks)["sequences"].tolist()
    return [[id for id in row[len(before) :] if id >= 0] for row in found], sums.tolist(), ids.shape[-1]


@pytest.mark.parametrize("seed", range(8))
def test_it_keeps_what_transformers_keeps(seed: int) -> None:
    for case in range(100):
        table = Table(100 * seed + case)
        dice = random.Random(case)
        early = dice.choice((True, False, None))
        params = BeamParams(dice.choice((2, 3, 4)), dice.choice((-1.0, 0.0, 0.6, 1.0, 1.7, 4.0)), early)
        before, ends = [0] * dice.randint(1, 5), [1, 2][: dice.choice((1, 1, 2))]
        max_length = len(before) + dice.randint(1, 15)
        search = BeamSearch(params, before, max_length, frozenset(ends))
        while not search.over:
            search.push([table.choose(beam.ids, search.ranked) for beam in search.beams])
        best = [[choice.id for choice in tokens] for tokens in search.best(params.beams)]
        ours = [[*ids[:-1], ends[0] if ids[-1] in ends else ids[-1]] for ids in best]
        state = [beam.total for beam in search.beams], len(search.beams[0].ids)
        assert (ours, *state) == by_scorer(table, params, before, max_length, ends), (case, params)
