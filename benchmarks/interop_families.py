"""How equal exported and imported models are, family by family: logits, probabilities, and greedy tokens.

    python benchmarks/interop_families.py --out interop_families.json

For each family a model with random weights (d_model 64, 4 layers, vocabulary 512) is exported as float32, and asked on
33 tokens: transformers for logits and 64 greedy tokens, llama.cpp for the probabilities of the next token. The folder
is then imported, exported again, and its tensors compared. Needs transformers, gguf and xllamacpp
(`pip install '.[test]'`).
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from groundup.config import ModelConfig, RunConfig, flatten
from groundup.errors import ConfigError
from groundup.generation import generate
from groundup.interop.export import export_model
from groundup.interop.gguf import read_gguf
from groundup.interop.importing import import_model
from groundup.interop.verify import asked_llama_cpp, compare
from groundup.nn import TransformerLM
from groundup.record.run import RunDirectory
from groundup.tokenizer import Tokenizer, train_bpe_from_documents
from groundup.tokenizer.content import TokenizerContent
from groundup.tokenizer.normalization.normalizers import NFC
from groundup.train.checkpoint.folder import FORMAT, VERSION, CheckpointContent, load_model, write_folder
from groundup.train.state import TrainState
from side_by_side import Report, Row

_SHAPE = {"vocab_size": 512, "context_length": 128, "d_model": 64, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2}
_LLAMA3 = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 32, "rope_theta": 500_000.0}
OPTIONS = {
    "Llama": {},
    "Llama, tied": {"tie_embeddings": True, "embedding_scale": 1.0},
    "Llama, tied by groundup": {"tie_embeddings": True},
    "Llama 3.1's scaling": _LLAMA3,
    "Llama, linear scaling": {"rope_scaling": "linear", "rope_factor": 4.0},
    "Llama, head size 24": {"head_size": 24},
    "Mistral": {"num_heads": 5, "num_kv_heads": 1, "head_size": 16},
    "Qwen2": {"qkv_bias": True},
    "Seed-OSS": {"qkv_bias": True},
    "Qwen3": {"qk_norm": True},
    "SmolLM3 without rotation": {"position": "none"},
    "Arcee": {"ffn": "silu"},
}
_TOKENIZERS = {"other": {"pattern": "gpt2", "normalizer": ()}, "Qwen2": {"pattern": "qwen2", "normalizer": (NFC(),)}}
"""transformers gives every model of Qwen2 the tokenizer of that family."""
_GREEDY = 64


def main() -> None:
    """Measure each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    parser.add_argument("--models", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    chosen = parser.parse_args()
    report = Report(chosen.out)
    torch.set_num_threads(1)
    documents = [" ".join(f"word{i * j % 91} it's {i * j}" for i in range(40)) for j in range(40)]
    tokenizers = {name: trained(documents, **options) for name, options in _TOKENIZERS.items()}
    for name in chosen.models:
        tokenizer = tokenizers.get(name, tokenizers["other"])
        with tempfile.TemporaryDirectory() as folder:
            report.add({"what": name} | measured(Path(folder), tokenizer, ModelConfig(**_SHAPE | OPTIONS[name])))
    report.finish(
        ["what", "class", "logits", "largest_logit", "greedy", "gguf", "log_probabilities", "same_tensors"],
    )


def trained(documents: list[str], pattern: str, normalizer: tuple[NFC, ...]) -> Tokenizer:
    """A tokenizer of 500 tokens."""
    vocab, merges = train_bpe_from_documents(documents, 500, ["<|endoftext|>"], pattern=pattern)
    return Tokenizer.from_content(
        TokenizerContent(
            source="trained", vocab=vocab, merges=merges, special_tokens=["<|endoftext|>"], pattern=pattern,
            normalizer=normalizer,
        )
    )  # fmt: skip


def measured(folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> Row:
    """Export, ask, import, and export again."""
    run = make_run(folder / "run", tokenizer, config)
    model, _ = load_model(RunDirectory.open(run))
    ids = [tokenizer.token_id("<|endoftext|>"), *tokenizer.encode("word7 it's word13 1234 " * 9)][:33]
    exported = export_model(run, folder / "out")
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0]
    theirs, greedy = ask_transformers(folder / "out", ids)
    equal = sum(a == b for a, b in zip(greedy, generate(model, ids, _GREEDY, 0.0)[len(ids) :], strict=True))
    row: Row = {
        "class": exported.family,
        "logits": float(f"{float((theirs - ours).abs().max()):.1e}"),
        "largest_logit": round(float(ours.abs().max()), 1),
        "greedy": f"{equal}/{_GREEDY}",
    }
    try:
        file = export_model(run, folder / "model.gguf", "gguf")
        read = read_gguf(file.out)
        logits = compare(read.side, read.side, ids).logits
        said = asked_llama_cpp(file.out, ids, logits, tokenizer, tolerance=1e-5)
        difference = float(said.split("log-probability ")[1].split()[0])
        row |= {"gguf": file.family.split()[0], "log_probabilities": difference}
    except ConfigError:
        row |= {"gguf": "no", "log_probabilities": ""}
    import_model(folder / "out", folder / "again")
    export_model(folder / "again", folder / "third")
    one, two = (load_file(folder / name / "model.safetensors") for name in ("out", "third"))
    return row | {"same_tensors": one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)}


def ask_transformers(folder: Path, ids: list[int]) -> tuple[torch.Tensor, list[int]]:
    """Logits ``(S, V)`` of transformers, and the tokens that it continues with."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        x = torch.tensor([ids])
        return model(x).logits[0], model.generate(x, max_new_tokens=_GREEDY, do_sample=False)[0, len(ids) :].tolist()


def make_run(folder: Path, tokenizer: Tokenizer, model: ModelConfig) -> Path:
    """Write a run with one checkpoint of random weights; gains and biases are random, too."""
    torch.manual_seed(0)
    config = RunConfig(name=folder.name, model=model)
    lm = TransformerLM(model)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape) + (1.0 if "norm" in name or "ln" in name else 0.0))
    run = RunDirectory(folder)
    run.create(config, {})
    tokenizer.save(run.tokenizer_dir)
    state = TrainState().to_dict() | {
        "format": FORMAT, "version": VERSION, "dataset_sha256": None, "tokenizer_sha256": tokenizer.sha256,
        "evaluated_on": [None, 640], "options": flatten(config),
    }  # fmt: skip
    write_folder(run.step_folder(0), CheckpointContent.of(lm, torch.optim.SGD(lm.parameters()), state))
    run.point("latest", 0)
    return folder


if __name__ == "__main__":
    main()
