"""An exported folder in ctranslate2, a third reader; run by ``make test-interop``, which installs it.

Not collected with the other tests: ctranslate2 is not in their environment.
"""

import json
from pathlib import Path

import ctranslate2
import pytest

from foreign_models import made_run
from groundup.generation import generate
from groundup.interop.export import export_model
from groundup.record.run import RunDirectory
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoint.folder import load_model

OPTIONS = {
    "llama": {},
    "llama, tied": {"tie_embeddings": True},
    "llama, scaled": {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_original_context": 8192},
    "qwen3": {"qk_norm": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_ctranslate2_generates_the_same_tokens(name: str, tokenizer: Tokenizer, tmp_path: Path):
    run = made_run(tmp_path / "run", tokenizer, vocab_size=300, **OPTIONS[name])
    export_model(run, tmp_path / "out")
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "out"))
    converter.convert(str(tmp_path / "converted"))
    model, _ = load_model(RunDirectory.open(run))
    prompt = tokenizer.encode("<|endoftext|>The cat sat")
    expected = generate(model, prompt, 48, temperature=0)[len(prompt) :]
    reader = ctranslate2.Generator(str(tmp_path / "converted"), inter_threads=1, intra_threads=1)
    names = vocabulary(tmp_path / "out")
    found = reader.generate_batch(
        [[names[i] for i in prompt]], max_length=48, sampling_topk=1, include_prompt_in_result=False, end_token=[]
    )[0].sequences_ids[0]
    assert found == expected


def vocabulary(folder: Path) -> list[str]:
    entries = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(entries, key=entries.get)
