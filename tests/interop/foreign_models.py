"""Small models with random weights: of transformers, one for each family, and runs of groundup with any options."""

import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from groundup.config import DataConfig, ModelConfig, RunConfig, flatten
from groundup.nn import TransformerLM
from groundup.record.run import RunDirectory
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoint.folder import FORMAT, VERSION, CheckpointContent, write_folder
from groundup.train.state import TrainState

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SIZES = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "vocab_size": 310,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "llama": {"model_type": "llama"},
    "smollm": {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "llama 3": {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 20, "rope_parameters": LLAMA3},
    "linear": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 14},
    "window": {"model_type": "mistral", "sliding_window": 96},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "seed_oss": {"model_type": "seed_oss", "head_dim": 12},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [0, 0, 0]},
    "smollm3, rotated": {"model_type": "smollm3", "no_rope_layers": [1, 1, 1], "tie_word_embeddings": False},
    "arcee": {"model_type": "arcee", "hidden_act": "silu"},
}


def foreign_model(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32, **options) -> Path:
    """A folder as transformers writes it, with random weights."""
    torch.manual_seed(0)
    end = tokenizer.token_id("<|endoftext|>")
    config = AutoConfig.for_model(**SIZES | {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        randomize(model)
        model.save_pretrained(folder, max_shard_size=options.get("shards", "5GB"))
    tokenizer.save_hugging_face(folder / "tokenizer.json")
    return folder


def foreign_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits of transformers in float32."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits


def foreign_greedy(folder: Path, ids: torch.Tensor, count: int) -> list[int]:
    """Tokens that transformers continues with, the likeliest each time, beyond the end of a text too."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
        return model.generate(ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :].tolist()


def randomize(model: torch.nn.Module) -> None:
    """Weights that are of a size to matter, norms and biases included."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = 1.0 if parameter.ndim == 1 and not name.endswith("bias") else 0.0
            parameter.copy_(gain + 0.1 * torch.randn(parameter.shape))


def made_run(folder: Path, tokenizer: Tokenizer | None, **options) -> Path:
    """A run with one checkpoint whose weights are random."""
    torch.manual_seed(1)
    shape = {"vocab_size": 310, "context_length": 96, "d_model": 48, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2}
    config = RunConfig(
        name=folder.name, runs_dir=str(folder.parent), model=ModelConfig(**shape | options), data=DataConfig(train="x")
    )
    model = TransformerLM(config.model)
    randomize(model)
    run = RunDirectory(folder)
    run.create(config, {})
    if tokenizer is not None:
        tokenizer.save(run.tokenizer_dir)
    state = TrainState(step=5, tokens=100).to_dict() | {
        "format": FORMAT, "version": VERSION, "dataset_sha256": "d" * 64, "options": flatten(config),
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None, "evaluated_on": [None, 640],
    }  # fmt: skip
    write_folder(run.step_folder(5), CheckpointContent.of(model, torch.optim.SGD(model.parameters()), state))
    run.point("latest", 5)
    return folder
