"""The chat template goes out and comes in with a model."""

import json
import shutil
from pathlib import Path

import pytest

from groundup.interop.export import export_model
from groundup.interop.importing import import_model
from groundup.record.run import RunDirectory
from groundup.text.chat.templates import load_template

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "gathered"
MESSAGES = [
    {"role": "system", "content": "You tell stories."}, {"role": "user", "content": "Tell me one\nabout a cat."},
    {"role": "assistant", "content": "Once upon a time."}, {"role": "user", "content": "Go on."},
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "run")
    RunDirectory(tmp_path / "run").write_chat_template(load_template("chatml", "<|endoftext|>").text)
    return tmp_path / "run"


@pytest.mark.parametrize("to", ["hugging-face", "folder", "gguf"])
def test_a_template_comes_back_as_it_went(run: Path, tmp_path: Path, to):
    export_model(run, tmp_path / "out", to)
    import_model(tmp_path / "out", tmp_path / "again")
    assert RunDirectory(tmp_path / "again").chat_template().text == RunDirectory(run).chat_template().text


def test_transformers_renders_the_same_conversation(run: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    export_model(run, tmp_path / "out", "hugging-face")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text.count("<|im_start|>") == 5
    assert text.endswith("<|im_start|>assistant\n")
    assert "about a cat.<|im_end|>" in text


def test_a_model_without_a_template_has_none(tmp_path: Path):
    export_model(FIXTURE, tmp_path / "out", "hugging-face")
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    import_model(tmp_path / "out", tmp_path / "again")
    assert not RunDirectory(tmp_path / "again").is_chat


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_template_is_found_where_transformers_writes_it(run: Path, tmp_path: Path, where):
    export_model(FIXTURE, tmp_path / "out", "hugging-face")
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    if where.endswith(".jinja"):
        (tmp_path / "out" / where).write_text(text)
    else:
        settings = json.loads((tmp_path / "out" / where).read_text())
        (tmp_path / "out" / where).write_text(json.dumps(settings | {"chat_template": text}))
    import_model(tmp_path / "out", tmp_path / "again")
    found = RunDirectory(tmp_path / "again").chat_template().text
    assert "m.role" in found
    assert "<|endoftext|>" in found
