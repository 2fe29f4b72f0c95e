"""The chat template goes out and comes in with a model."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

from foreign_models import made_run
from groundup.cli.main import main
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


LOOPS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
UNUSABLE = {
    "syntax": ("{% for m in messages %}{{ m.role }}", "of the model cannot be used: line 1: "),
    "loops": (LOOPS, "loops"),
    "reads a file": ("{% include '/etc/passwd' %}", "include"),
    "lacks tokens": (
        load_template("chatml", "<|endoftext|>").text,
        "<|im_start|> <|im_end|>; the model was not trained",
    ),
}


@pytest.mark.parametrize(
    "template", [3, [{"name": "tool_use", "template": "x"}], "x" * (2 << 20)], ids=["3", "no default", "large"]
)
def test_a_template_that_cannot_be_read_is_told_and_the_rest_imported(template, tmp_path: Path):
    export_model(FIXTURE, tmp_path / "out", "hugging-face")
    path = tmp_path / "out" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    found = import_model(tmp_path / "out", tmp_path / "run")
    assert any("`groundup generate --chat` will not work: " in line and "\n" not in line for line in found.checks)
    assert not RunDirectory(tmp_path / "run").is_chat


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_template_that_cannot_be_used_is_told_at_once_and_when_it_is_needed(
    name, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("groundup.text.chat.rendering.PROCESSOR_SECONDS", 0.5)
    monkeypatch.setattr("groundup.interop.importing.asked_transformers", lambda *_, **__: "")
    template, told = UNUSABLE[name]
    export_model(FIXTURE, tmp_path / "out", "folder")
    (tmp_path / "out" / "tokenizer" / "chat_template.jinja").write_text(template)
    found = import_model(tmp_path / "out", tmp_path / "run")
    (note,) = [line for line in found.checks if line.startswith("note: `groundup generate --chat` will not work: ")]
    assert told in note
    assert "\n" not in note
    assert "--chat" not in found.next
    with pytest.raises(SystemExit) as end:
        main(["generate", str(tmp_path / "run"), "--chat"])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert told.removeprefix("of the model ") in err
    assert ("--init" if name == "lacks tokens" else f"mend it in {tmp_path}/run/tokenizer/chat_template.jinja") in err
    assert "name another" not in err


@pytest.mark.parametrize("chats", [False, True], ids=["text", "chat"])
def test_the_code_of_the_card_runs_from_where_the_export_was_made(
    chats, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if chats:
        tokenizer = tokenizer.with_special_tokens(["<|im_start|>", "<|im_end|>"])
    run = made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    if chats:
        RunDirectory(run).write_chat_template(load_template("chatml", "<|endoftext|>").text)
    with pytest.raises(SystemExit):
        main(["export", "mine", "--out", "there/model"])
    told = capsys.readouterr().out
    card = Path("there/model/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.replace("max_new_tokens=100", "max_new_tokens=5"), {})
    printed = capsys.readouterr().out
    assert (printed.startswith("<|endoftext|>Once upon a time"), "apply_chat_template" in code) == (not chats, chats)
    assert ("apply_chat_template" in told, "Once upon a time" in told) == (chats, not chats)
    found = export_model(run, Path("model.gguf"), "gguf").next
    assert found.startswith("llama-cli" if chats else "llama-completion")


def test_of_several_templates_the_default_is_taken(tmp_path: Path):
    export_model(FIXTURE, tmp_path / "out", "hugging-face")
    path = tmp_path / "out" / "tokenizer_config.json"
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": several}))
    import_model(tmp_path / "out", tmp_path / "run")
    assert RunDirectory(tmp_path / "run").chat_template().text == "{{ messages[0].content }}"
