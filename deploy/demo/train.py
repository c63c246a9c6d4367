"""Train the demo model from scratch: `python -m deploy.demo.train`. About half an hour on two CPU cores.

A byte-level BPE tokenizer of 2,048 entries and a Llama of four blocks, 4.2 million parameters. The model learns what
comes after "Assistant:", and little of what people ask. Everything follows from the corpus and one seed.
"""

import math
import random
import time
from collections.abc import Iterator
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
POSITIONS = 256  # tokens of a training row
ROWS = 32
STEPS = 1200
WARM_UP = 100
RATE = 2e-3
PLAIN_SHARE = 0.05  # of texts that are no dialogue
WHOLE_SHARE = 0.15  # of dialogues whose questions are learnt as well
IGNORED = -100  # torch's mark for positions without a loss


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
    texts = ["".join(text for text, _ in dialogue(known, dice)) for _ in range(8000)]
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


def texts(known: list[Topic], tokenizer: PreTrainedTokenizerFast, dice: random.Random) -> Iterator[tuple[int, bool]]:
    """An endless row of ids; True where the model is to learn to write this id."""
    plain = plain_texts()
    while True:
        yield tokenizer.bos_token_id, False
        pieces = [(dice.choice(plain), True)] if dice.random() < PLAIN_SHARE else dialogue(known, dice)
        whole = dice.random() < WHOLE_SHARE
        for text, learnt in pieces:
            for token in tokenizer.encode(text, add_special_tokens=False):
                yield token, learnt or whole
        yield tokenizer.eos_token_id, dice.random() < 0.3 or pieces[0][1]


def batches(known: list[Topic], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels, both [ROWS, POSITIONS]."""
    source = texts(known, tokenizer, random.Random(SEED + 1))
    while True:
        pairs = [next(source) for _ in range(ROWS * POSITIONS)]
        ids = torch.tensor([token for token, _ in pairs])
        learnt = torch.tensor([learnt for _, learnt in pairs])
        yield ids.view(ROWS, -1), ids.where(learnt, IGNORED).view(ROWS, -1)


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


def rate(step: int) -> float:
    """Learning rate as a share of the highest: a linear warm-up, then a cosine down to a hundredth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP)))


def main() -> None:
    """Train and write deploy/demo/model."""
    known = topics()
    tokenizer = make_tokenizer(known)
    model = make_model()
    print(f"{len(known)} topics, {sum(len(topic.questions) for topic in known)} questions", flush=True)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    started, mean = time.monotonic(), 0.0
    for step, (ids, labels) in zip(range(STEPS), batches(known, tokenizer), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step else loss.item()
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step} loss {mean:.3f} after {(time.monotonic() - started) / 60:.1f} min", flush=True)
    model.half().save_pretrained(FOLDER, safe_serialization=True)
    tokenizer.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
