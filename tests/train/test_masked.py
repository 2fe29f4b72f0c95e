"""Training on tokens of which only some count: the loss by hand, micro-batches, evaluation, and resuming."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from groundup.config import RunConfig, override
from groundup.data.batches import IGNORED
from groundup.data.encode import encode_with_summary
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError
from groundup.text.options import ReadOptions
from groundup.tokenizer import Tokenizer
from groundup.train import evaluate_run, train
from groundup.train.build import build
from groundup.train.device import process_settings
from groundup.train.step import accumulate_gradients
from records import record


@pytest.fixture(scope="module")
def chat(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of conversations of very different lengths, ``train/`` and ``valid/``."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    for name, count in (("train", 30), ("valid", 8)):
        rows = [
            {"prompt": "The cat?" * (1 + i % 3), "completion": " The dog ran to the pond." * (i % 5)}
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        encode_with_summary(
            folder / f"{name}.jsonl", tokenizer, folder / name, read=ReadOptions(format="chat"), add_special_tokens=True
        )
    return folder


@pytest.fixture
def config(config: RunConfig, chat: Path) -> RunConfig:
    return override(
        config, {"data.train": str(chat / "train"), "data.valid": str(chat / "valid"), "data.batch_size": 6}
    )


def built(config: RunConfig, **options):
    config = override(config, options)
    with process_settings(config.train, "cpu"):
        trainer = build(config, "cpu")
    trainer.model.double()
    return trainer


def by_hand(trainer, step: int) -> torch.Tensor:
    """The mean of -log p over the targets of a step that count, each sequence by itself, from the definition."""
    store, context_length = trainer.train_store, trainer.config.model.context_length
    counts = store.gather_counts([0], len(store))[0]
    ids = store.read(0, len(store))
    ends = store.document_offsets.tolist()
    total, number = torch.zeros((), dtype=torch.float64), 0
    for start in trainer.batches.batches.starts(step).tolist():
        end = start + context_length
        if trainer.config.data.pack == "documents":
            end = min(end, next(offset for offset in ends if offset > start) - 1)
        logits = trainer.model(torch.tensor(ids[start:end])[None])[0]
        for place in range(start, end):
            if counts[place + 1]:
                total = total - torch.log_softmax(logits[place - start], -1)[ids[place + 1]]
                number += 1
    return total / number


@pytest.mark.parametrize("pack", ["stream", "documents"])
@pytest.mark.parametrize("kernels", ["fast", "plain"])
@pytest.mark.parametrize("micro", [0, 1, 2])
def test_loss_and_gradient_are_those_of_the_mean_over_all_targets_that_count(config, pack, kernels, micro):
    trainer = built(config, **{"data.pack": pack, "train.kernels": kernels, "data.micro_batch_size": micro})
    for step in (0, 3):
        batches = list(trainer.batches.micro_batches(step))
        counted = [int((y != IGNORED).sum()) for _, y, _ in batches]
        assert micro == 0 or len(set(counted)) > 1  # otherwise equal weights would do
        loss = accumulate_gradients(trainer.loss, trainer.optimizer, batches, trainer.batches.count)
        gradients = [parameter.grad.clone() for parameter in trainer.model.parameters()]
        trainer.optimizer.zero_grad(set_to_none=True)
        expected = by_hand(trainer, step)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        for found, parameter in zip(gradients, trainer.model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-12)


def test_documents_do_not_see_each_other(config):
    """The loss of a step is that of its documents one by one, so nothing crosses from one to another."""
    trainer = built(config, **{"data.pack": "documents", "model.context_length": 200})
    (x, _, _), *rest = trainer.batches.micro_batches(0)
    assert not rest
    assert x.shape[1] < 200  # no longer than its longest document, rounded up
    separator = trainer.train_store.index["separator"]["id"]
    assert not (x == separator).any()  # it ends a document: a target only
    lengths = [int((row != 0).sum()) for row in x]
    assert len(set(lengths)) > 1
    for row, length in zip(x, lengths, strict=True):
        alone = trainer.model(row[None, :length])[0]
        torch.testing.assert_close(trainer.model(x)[(x == row).all(1)][0, :length], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("pack", "stop"), [("stream", 7), ("documents", 1), ("documents", 13)])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(config, tmp_path, pack, stop):
    config = override(config, {"data.pack": pack, "data.micro_batch_size": 2})
    whole = train(override(config, {"name": "whole"})).run_dir
    stopped = train(config, pause=lambda step: step == stop)
    assert not stopped.finished
    assert record(train(config, resume=True).run_dir) == record(whole)


@pytest.mark.parametrize("pack", ["stream", "documents"])
def test_evaluation_is_over_what_counts(config, pack):
    run = train(override(config, {"data.pack": pack, "train.max_iters": 3, "train.eval_windows": 0})).run_dir
    found = evaluate_run(run)
    store = TokenShards.open(config.data.valid)
    trainer = built(config, **{"data.pack": pack, "data.train": config.data.valid, "data.valid": ""})
    from groundup.record.run import RunDirectory
    from groundup.train.checkpoint.folder import load_model

    model, _ = load_model(RunDirectory.open(run), "best", "cpu")
    trainer.model.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    counts, ids = store.gather_counts([0], len(store))[0], store.read(0, len(store))
    context_length, offsets = config.model.context_length, store.document_offsets.tolist()
    bounds = offsets if pack == "documents" else [0, len(store)]
    nats, scored = 0.0, []
    for first, last in pairwise(bounds):
        for start in range(first, last - 1, context_length):
            end = min(start + context_length, last - 1)
            logits = trainer.model(torch.tensor(ids[start:end])[None])[0].log_softmax(-1)
            for place in range(start, end):
                if counts[place + 1]:
                    nats -= logits[place - start, ids[place + 1]].item()
                    scored.append(int(ids[place + 1]))
    assert found.tokens == len(scored)
    assert found.loss == pytest.approx(nats / len(scored), rel=1e-5)
    size = int(store.token_lengths[scored].sum())
    assert found.bytes == size
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_tokens_of_a_run_are_those_of_its_documents_without_padding(config):
    config = override(config, {"data.pack": "documents", "train.max_iters": 2, "optim.warmup_iters": 0})
    found = train(config).summary["tokens"]
    trainer = built(config)
    starts = [start for step in range(2) for start in trainer.batches.batches.starts(step).tolist()]
    offsets = trainer.train_store.document_offsets.tolist()
    ends = [next(offset for offset in offsets if offset > start) - 1 for start in starts]
    assert found == sum(min(end - start, 16) for start, end in zip(starts, ends, strict=True))


def test_plain_text_can_be_packed_by_documents_too(config, tokens):
    config = override(config, {"data.train": str(tokens / "train"), "data.valid": str(tokens / "valid")})
    trainer = built(config, **{"data.pack": "documents"})
    (_, y, weight), *_ = trainer.batches.micro_batches(0)
    assert weight == 1
    assert ((y != IGNORED).sum(1) <= 16).all()
    assert not built(config).batches.batches.ignores


def test_a_bare_array_has_no_documents(config, tmp_path):
    import numpy as np

    np.save(tmp_path / "ids.npy", np.arange(100))
    options = {"data.train": str(tmp_path / "ids.npy"), "data.valid": "", "data.pack": "documents"}
    with pytest.raises(ConfigError, match=r"data\.pack"):
        built(config, **options, **{"model.vocab_size": 100})


def test_the_run_has_the_template_of_its_conversations(config, chat):
    run = train(override(config, {"train.max_iters": 1, "optim.warmup_iters": 0})).run_dir
    template = (chat / "train" / "tokenizer" / "chat_template.jinja").read_text()
    assert (run / "tokenizer" / "chat_template.jinja").read_text() == template
