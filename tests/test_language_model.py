"""`groundup.load` and `groundup.train`, as a script and a notebook use them."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import groundup
from groundup.errors import ConfigError, FileMissingError, TokenizerError

FIXTURE = Path(__file__).parent / "fixtures" / "version-0.1" / "runs" / "gathered"
TEXT = "The dog ran to the moon, and the cat sat on the mat."


@pytest.fixture(scope="module")
def model() -> groundup.LanguageModel:
    return groundup.load(FIXTURE)


def ids_of(model: groundup.LanguageModel, text: str) -> list[int]:
    return [model.tokenizer.token_id("<|endoftext|>"), *model.tokenizer.encode(text)]


def test_generate_is_the_decoded_continuation(model):
    ids = ids_of(model, "The cat")
    expected = groundup.generate(model.model, ids, max_tokens=12, temperature=0.0)[len(ids) :]
    assert model.generate("The cat", max_tokens=12, temperature=0.0) == model.tokenizer.decode(expected)


def test_a_stream_is_the_same_text_in_pieces_and_a_seed_repeats_it(model):
    whole = model.generate("The", max_tokens=20, seed=3)
    pieces = list(model.stream("The", max_tokens=20, seed=3))
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    assert whole != model.generate("The", max_tokens=20, seed=4)


def test_logits_take_one_sequence_or_a_batch(model):
    ids = ids_of(model, TEXT)[: model.config.context_length]
    one, batch = model.logits(ids), model.logits(torch.tensor([ids, ids]))
    assert one.shape == (len(ids), model.config.vocab_size)
    assert torch.equal(one, model.model(torch.tensor([ids]))[0])
    torch.testing.assert_close(batch, torch.stack([one, one]))


def test_a_score_is_torchs_cross_entropy(model):
    ids = ids_of(model, TEXT)[: model.config.context_length]
    text = model.tokenizer.decode(ids[1:])
    score = model.score(text)
    with torch.no_grad():
        logits = model.model(torch.tensor([ids]))[0, :-1].double()
    expected = -F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    assert score.token_ids == tuple(ids[1:])
    assert score.log_probabilities == pytest.approx(expected.tolist(), rel=1e-6)
    assert score.total == pytest.approx(float(expected.sum()))
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()))
    assert score.bits_per_byte == pytest.approx(-float(expected.sum()) / math.log(2) / len(text.encode()))


@pytest.mark.parametrize("repeats", [3, 4, 11])
def test_a_text_beyond_the_context_is_scored_with_at_least_half_of_it_before_each_token(model, repeats):
    text, context = TEXT * repeats, model.config.context_length
    ids, score = ids_of(model, text), model.score(TEXT * repeats)
    assert len(score.log_probabilities) == len(ids) - 1 > context
    for i in (1, context // 2, context, context + 1, len(ids) // 2, len(ids) - 1):
        possible = []
        for before in range(min(i, context // 2), min(i, context) + 1):
            logits = model.model(torch.tensor([ids[i - before : i]])).detach()[0, -1].double()
            possible.append(float(logits.log_softmax(-1)[ids[i]]))
        assert any(score.log_probabilities[i - 1] == pytest.approx(value, rel=1e-4) for value in possible)


def test_a_run_by_its_name_is_found_beside_a_folder_of_that_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE, tmp_path / "runs" / "mine")
    (tmp_path / "mine" / "tokens").mkdir(parents=True)
    assert groundup.load("mine").step == 12


def test_what_cannot_be_scored_or_computed_is_refused(model):
    with pytest.raises(ConfigError, match="empty"):
        model.score("")
    with pytest.raises(TokenizerError, match=str(model.config.vocab_size - 1)):
        model.logits([0, model.config.vocab_size])
    with pytest.raises(ConfigError, match="context_length"):
        model.logits([0] * (model.config.context_length + 1))
    with pytest.raises(ConfigError, match="top_p"):
        model.generate("x", top_p=0.0)
    with pytest.raises(FileMissingError, match="no-such-run"):
        groundup.load("no-such-run")


def test_a_model_shows_its_run_and_sizes(model):
    count = f"{sum(p.numel() for p in model.model.parameters()) / 1e3:.1f}"
    for shown in (repr(model), model._repr_html_()):
        assert str(FIXTURE) in shown
        assert count in shown
    assert f"{model.config.d_model} -> {model.config.vocab_size}" in repr(model.model)


def test_a_path_in_a_notebook_is_text_not_markup(model, tmp_path: Path):
    shutil.copytree(FIXTURE, tmp_path / "<b>mine")
    assert "<b>" not in groundup.load(tmp_path / "<b>mine")._repr_html_()


TINY = {
    "model": {"d_model": 32, "num_layers": 1, "num_heads": 2, "context_length": 16},
    "max_iters": 4,
    "batch_size": 2,
}


def test_training_takes_a_recipe_and_options_by_name(tokens: Path, tmp_path: Path, capsys):
    result = groundup.train(
        "demo", name="mine", runs_dir=str(tmp_path), warmup_iters=1,
        data={"train": str(tokens / "train"), "valid": str(tokens / "valid")}, **TINY,
    )  # fmt: skip
    assert result.finished
    assert capsys.readouterr().out == ""  # neither a terminal nor a notebook
    loaded = groundup.load(result.run_dir)
    assert (loaded.step, loaded.config.d_model) == (4, 32)
    with pytest.raises(ConfigError, match="max_iters"):
        groundup.train("demo", max_iter=4)


def test_the_package_of_the_same_name_stays_a_package():
    from groundup.train import evaluate_run

    assert groundup.train.evaluate_run is evaluate_run


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_shows_progress_and_the_model(tokens: Path, tmp_path: Path, widgets: bool):
    import nbclient
    import nbformat

    cells = [
        "import sys" if widgets else "import sys; sys.modules['ipywidgets'] = None",
        f"""import groundup
result = groundup.train("demo", name="mine", runs_dir={str(tmp_path)!r}, overwrite=True, warmup_iters=1,
                        data={{"train": {str(tokens / "train")!r}, "valid": {str(tokens / "valid")!r}}}, **{TINY!r})""",
        "groundup.load(result.run_dir)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    shown = str(notebook.cells[1].outputs)
    assert "valid loss" in shown
    assert ("application/vnd.jupyter.widget-view+json" in shown) is widgets
    assert "<table>" in notebook.cells[2].outputs[0].data["text/html"]


def test_a_folder_of_another_program_loads_without_an_import(tmp_path: Path):
    from groundup.interop.export import export_model

    run = groundup.load(FIXTURE)
    for to in ("hugging-face", "folder"):
        export_model(FIXTURE, tmp_path / to, to)
        other = groundup.load(tmp_path / to)
        assert other.run is None
        assert other.score(TEXT).token_ids == run.score(TEXT).token_ids
        assert other.score(TEXT).log_probabilities == pytest.approx(run.score(TEXT).log_probabilities, rel=1e-4)
        assert other.generate("The cat", max_tokens=10, seed=1) == run.generate("The cat", max_tokens=10, seed=1)
    limited = groundup.load(tmp_path / "hugging-face", context=8)
    assert limited.config.context_length == 8
    (tmp_path / "hugging-face" / "tokenizer.json").unlink()
    with pytest.raises((TokenizerError, FileMissingError), match="tokenizer"):
        groundup.load(tmp_path / "hugging-face")
    assert groundup.load(tmp_path / "hugging-face", tokenizer=FIXTURE / "tokenizer").score(TEXT).bytes == len(TEXT)
