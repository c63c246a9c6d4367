"""Train the demo model from scratch: `python -m deploy.demo.train`. About 40 minutes on two CPU cores.

A byte-level BPE tokenizer of 2,048 entries and a Llama of four blocks, 4.3 million parameters. The model learns what
comes after "Assistant:", and little of what people ask: first in short dialogues, then in long ones, so that it keeps
its head up to the end of a session. Everything follows from the corpus and one seed.
"""

import dataclasses
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deploy.demo.dialogues import STOP, Topic, dialogue, plain_texts, topics

FOLDER = Path(__file__).parent / "model"
SEED = 7
VOCABULARY = 2048
BOS, EOS = "<s>", "</s>"
PLAIN_SHARE = 0.05  # of texts that are no dialogue
WHOLE_SHARE = 0.15  # of dialogues whose questions are learnt as well
IGNORED = -100  # torch's mark for positions without a loss


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training. rows x positions: tokens of a step; turns: of a dialogue; rate: the highest one, which
    is reached after `warm_up` steps."""

    steps: int
    warm_up: int
    rows: int
    positions: int
    turns: Sequence[int]
    rate: float


SHORT = Stage(1200, 100, 32, 256, (1, 1, 2, 2, 3, 4, 5, 6), 2e-3)
LONG = Stage(160, 40, 8, 1024, range(1, 21), 7e-4)


def make_tokenizer(known: list[Topic]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text comes back from its ids; the stop string is one token."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(STOP), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    dice = random.Random(SEED)
    texts = ["".join(text for text, _ in dialogue(known, SHORT.turns, dice)) for _ in range(8000)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BOS, EOS],
        show_progress=False,
    )
    bpe.train_from_iterator(texts + plain_texts() * 50, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False, model_max_length=2048
    )


def texts(
    known: list[Topic], tokenizer: PreTrainedTokenizerFast, turns: Sequence[int], dice: random.Random
) -> Iterator[tuple[int, bool]]:
    """An endless row of ids; True where the model is to learn to write this id."""
    plain = plain_texts()
    while True:
        yield tokenizer.bos_token_id, False
        pieces = [(dice.choice(plain), True)] if dice.random() < PLAIN_SHARE else dialogue(known, turns, dice)
        whole = dice.random() < WHOLE_SHARE
        for text, learnt in pieces:
            for token in tokenizer.encode(text, add_special_tokens=False):
                yield token, learnt or whole
        yield tokenizer.eos_token_id, dice.random() < 0.3 or pieces[0][1]


def batches(
    known: list[Topic], tokenizer: PreTrainedTokenizerFast, stage: Stage
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels of each step, both [rows, positions]."""
    source = texts(known, tokenizer, stage.turns, random.Random(SEED + 1))
    for _ in range(stage.steps):
        pairs = [next(source) for _ in range(stage.rows * stage.positions)]
        ids = torch.tensor([token for token, _ in pairs])
        learnt = torch.tensor([learnt for _, learnt in pairs])
        yield ids.view(stage.rows, -1), ids.where(learnt, IGNORED).view(stage.rows, -1)


def make_model() -> LlamaForCausalLM:
    """An untrained model. Embeddings and head are two matrices, because a Petals client loads them apart."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def rate(step: int, stage: Stage) -> float:
    """Learning rate as a share of the highest: a linear warm-up, then a cosine down to a hundredth."""
    if step < stage.warm_up:
        return (step + 1) / stage.warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - stage.warm_up) / (stage.steps - stage.warm_up)))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, known: list[Topic], stage: Stage) -> None:
    """Take the model through one stage."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, stage))
    started, mean = time.monotonic(), 0.0
    for step, (ids, labels) in enumerate(batches(known, tokenizer, stage), 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {mean:.3f} after {(time.monotonic() - started) / 60:.1f} min", flush=True)


def main() -> None:
    """Train and write deploy/demo/model."""
    known = topics()
    tokenizer = make_tokenizer(known)
    model = make_model()
    print(f"{len(known)} topics, {sum(len(topic.questions) for topic in known)} questions", flush=True)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters, {len(tokenizer)} tokens", flush=True)
    for stage in (SHORT, LONG):
        train(model, tokenizer, known, stage)
    model.half().save_pretrained(FOLDER, safe_serialization=True)
    tokenizer.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
