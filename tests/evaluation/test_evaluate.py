"""`groundup evaluate` as a user meets it: several models, rounded weights, options that exclude each other."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

import foreign_models
import groundup
from foreign_models import made_run
from groundup.cli.main import main
from groundup.data.encode import encode_files
from groundup.interop.export import export_model
from groundup.train import evaluate_run


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def objects(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def text(tokens: Path) -> Path:
    return tokens / "valid.txt"


@pytest.fixture(scope="module")
def gguf(run_dir: Path) -> Path:
    export_model(run_dir, out := run_dir.parent / "small.gguf", "gguf", dtype="f32")
    return out


def test_whatever_loads_stands_side_by_side(run_dir, exported, gguf, text, capsys):
    models = [run_dir, exported, gguf]
    code, out, _ = run("evaluate", *models, "--text", text, "--json-output", capsys=capsys)
    assert code == 0
    found = objects(out)
    assert [one["model"] for one in found] == list(map(str, models))
    assert [one["step"] for one in found] == [5, None, None]
    expected = groundup.load(run_dir).evaluate_text(text)
    for one in found:
        assert one["loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert one["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-5)
        assert (one["tokens"], one["bytes"], one["on"]) == (expected.tokens, expected.bytes, str(text))
    code, out, _ = run("evaluate", *models, "--text", text, capsys=capsys)
    assert code == 0
    for model in models:
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [str(model)]]
        assert f"{expected.loss:.4f}" in line
        assert f"{expected.bits_per_byte:.4f}" in line


def test_shards_are_for_models_with_their_tokenizer(run_dir, exported, tokens, tmp_path, capsys):
    code, out, _ = run("evaluate", run_dir, exported, "--data", tokens / "valid", "--json-output", capsys=capsys)
    assert code == 0
    losses = [one["loss"] for one in objects(out)]
    assert losses == pytest.approx([evaluate_run(run_dir, data=str(tokens / "valid")).loss] * 2, rel=1e-5)
    other = groundup.load(run_dir).tokenizer.with_special_tokens(["<|other|>"])
    merged = made_run(tmp_path / "merged", other)
    code, _, err = run("evaluate", merged, "--data", tokens / "valid", capsys=capsys)
    assert code == 0, err  # more ids, and the same ones
    vocab, merges = groundup.train_bpe(tokens / "valid.txt", 280, ["<|endoftext|>"])
    encode_files(tokens / "valid.txt", groundup.Tokenizer(vocab, merges, ["<|endoftext|>"]), tmp_path / "shards")
    for model in (run_dir, exported):
        code, _, err = run("evaluate", model, "--data", tmp_path / "shards", capsys=capsys)
        assert (code, err.count("\n"), "another tokenizer" in err) == (2, 1, True), err
    code, _, err = run("evaluate", exported, capsys=capsys)
    assert (code, err.count("\n"), "--text" in err) == (2, 1, True), err


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
def test_the_price_of_rounded_weights_is_printed_beside_the_loss(weights, run_dir, exported, tokens, text, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    encode = AutoTokenizer.from_pretrained(exported)
    document = "The cat sat on the mat and looked at the moon."
    ids = torch.tensor([[encode.bos_token_id, *encode(document, add_special_tokens=False)["input_ids"]]])
    losses = []
    with torch.no_grad():
        losses.append(float(theirs(ids, labels=ids).loss))
        for module in theirs.modules():
            if isinstance(module, torch.nn.Linear):
                scale = module.weight.abs().amax(1, keepdim=True) / 127
                rounded = module.weight.bfloat16() if weights == "bfloat16" else (module.weight / scale).round() * scale
                module.weight.copy_(rounded.float())
        losses.append(float(theirs(ids, labels=ids).loss))
    one = text.parent / "one.txt"
    one.write_text(document, encoding="utf-8")
    code, out, _ = run("evaluate", run_dir, "--text", one, "--weights", weights, "--json-output", capsys=capsys)
    (found,) = objects(out)
    assert (code, found["weights"]) == (0, weights)
    assert found["float32"]["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert found["loss"] == pytest.approx(losses[1], rel=1e-5)
    assert found["difference"]["nats"] == pytest.approx(losses[1] - losses[0], abs=1e-5)
    percent = 100 * (found["perplexity"] / found["float32"]["perplexity"] - 1)
    assert found["difference"]["perplexity_percent"] == pytest.approx(percent, abs=1e-6)
    bits = found["bits_per_byte"] - found["float32"]["bits_per_byte"]
    assert found["difference"]["bits_per_byte"] == pytest.approx(bits)
    # On shards the loss is computed by another way, without the logits.
    code, out, _ = run("evaluate", run_dir, "--data", tokens / "valid", "--weights", weights, capsys=capsys)
    assert code == 0
    assert "float32" in out
    assert " %" in out
    code, out, _ = run(
        "evaluate", run_dir, "--data", tokens / "valid", "--weights", weights, "--json-output", capsys=capsys
    )
    assert abs(objects(out)[0]["difference"]["nats"]) < 0.02


def test_text_from_standard_input_is_read_once(run_dir, exported, text, monkeypatch, capsys):
    class Input:
        buffer = io.BytesIO(text.read_bytes())

    expected = groundup.load(run_dir).evaluate_text(text).loss
    monkeypatch.setattr(sys, "stdin", Input())
    for more in ([exported], ["--weights", "int8"]):
        code, _, err = run("evaluate", run_dir, *more, "--text", "-", capsys=capsys)
        assert (code, err.count("\n"), "read once" in err) == (2, 1, True), err
    code, out, err = run("evaluate", run_dir, "--text", "-", "--json-output", capsys=capsys)
    assert code == 0, err
    assert objects(out)[0]["loss"] == pytest.approx(expected)


def test_files_are_listed_with_commas(run_dir, tmp_path, capsys):
    for name, written in (("a.txt", "The cat."), ("b.jsonl", '{"text": "The dog."}\n'), ("c,d.txt", "The moon.")):
        (tmp_path / name).write_text(written, encoding="utf-8")
    for given, count in ((f"{tmp_path / 'a.txt'},{tmp_path / 'b.jsonl'}", 16), (tmp_path / "c,d.txt", 9)):
        _, out, err = run("evaluate", run_dir, "--text", given, "--json-output", capsys=capsys)
        assert objects(out)[0]["bytes"] == count, err
    _, out, _ = run("evaluate", run_dir, "--text", tmp_path / "a.txt", "--limit", "3B", "--json-output", capsys=capsys)
    assert objects(out)[0]["bytes"] == 3


@pytest.mark.parametrize("source", ["--text", "--data"])
def test_all_names_are_found_before_any_model_is_scored(source, run_dir, tokens, tmp_path, capsys):
    on = tokens / "valid.txt" if source == "--text" else tokens / "valid"
    for wrong in ("nowhere", tokens / "valid"):
        code, out, err = run("evaluate", run_dir, wrong, source, on, "--json-output", capsys=capsys)
        assert (code, out, err.count("\n"), str(wrong) in err) == (2, "", 1, True)


def test_models_side_by_side_predict_the_same_tokens(run_dir, exported, tokenizer, tokens, tmp_path, capsys):
    packed = made_run(tmp_path / "packed", tokenizer, context_length=20)
    options = (packed / "config.toml").read_text()
    (packed / "config.toml").write_text(options.replace('pack = "stream"', 'pack = "documents"'))
    assert groundup.load(packed).run.config.data.pack == "documents"
    command = ("evaluate", run_dir, packed, exported, "--data", tokens / "valid")
    code, out, _ = run(*command, "--json-output", capsys=capsys)
    assert code == 0
    found = objects(out)
    assert len({(one["tokens"], one["bytes"]) for one in found}) == 1
    alone = evaluate_run(packed, data=str(tokens / "valid"))
    assert (found[1]["loss"], found[1]["tokens"]) == (alone.loss, alone.tokens)
    _, out, _ = run(*command, capsys=capsys)
    assert "one document each" in out


@pytest.mark.parametrize("verb", [["generate"], ["evaluate", "--data", "x"], ["import", "--out", "x"], ["chat"]])
@pytest.mark.parametrize("name", ["", "shard-00000.bin"])
def test_token_shards_are_named_as_such(verb, name, tokens, capsys):
    where = tokens / "valid" / name
    code, _, err = run(verb[0], where, *verb[1:], capsys=capsys)
    assert (code, err.count("\n"), "token shards" in err, "pickle" in err) == (2, 1, True, False), err


def test_a_model_that_has_diverged_is_named(run_dir, tokenizer, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(foreign_models, "randomize", lambda model: model.lm_head.weight.data.fill_(torch.nan))
    broken = foreign_models.made_run(tmp_path / "broken", tokenizer)
    for options in (["--text", text], ["--data", text.parent / "valid"]):
        code, out, err = run("evaluate", run_dir, broken, *options, "--json-output", capsys=capsys)
        assert (code, err.count("\n"), f"{broken}: " in err, "not finite" in err) == (2, 1, True, True), err
        assert len(objects(out)) == 1


WRONG = {
    "--text x.txt --data y": "--data does not apply to --text",
    "--text {text} --split train": "--split does not apply to --text",
    "--tasks a --split train": "--split does not apply to --tasks",
    "--data x --split train": "--split does not apply to --data",
    "--encoding latin-1": "--encoding applies to --text",
    "--text nowhere.txt": "nowhere.txt",
    "--limit 10": "--limit 10",
    "--text {text} --limit 0": "at least 1",
    "--text {text} --limit ten": "'ten'",
    "--tasks a --limit 1.5": "--limit 1.5",
    "--tasks a --num-fewshot -1": "--num-fewshot -1",
    "--num-fewshot 2": "--tasks",
    "--chat": "--tasks",
    "--field body": "--text",
    "--text {text} --field body": "--field",
    "--text {text} --format chat": "chat",
    "--text {text} --weights int4": "int4",
}


@pytest.mark.parametrize("options", WRONG)
def test_options_that_do_not_apply_are_refused(options, run_dir, text, capsys):
    code, _, err = run("evaluate", run_dir, *options.format(text=text).split(), capsys=capsys)
    assert (code, err.count("\n"), WRONG[options] in err) == (2, 1, True), err


def test_a_model_has_to_be_named(capsys):
    code, _, err = run("evaluate", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1), err


def test_tasks_need_an_extra(run_dir, monkeypatch, capsys):
    monkeypatch.setattr("groundup.evaluation.tasks.find_spec", lambda name: None)
    code, _, err = run("evaluate", run_dir, "--tasks", "arc_easy", capsys=capsys)
    assert (code, err.count("\n"), ".[eval]" in err) == (2, 1, True), err
