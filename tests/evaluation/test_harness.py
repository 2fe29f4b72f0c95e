"""Tasks of lm-evaluation-harness: the same numbers as its own class for transformers, and errors as one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import groundup
from foreign_models import made_run
from groundup.cli.main import main
from groundup.config import SampleConfig
from groundup.errors import ConfigError, DataError
from groundup.generation import Sampling
from groundup.interop.export import export_model
from groundup.record.run import RunDirectory
from groundup.text.chat.templates import load_template
from local_tasks import TASKS, write_tasks

pytest.importorskip("lm_eval", reason="pip install '.[eval]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Any:
    """lm-eval's own class, on the exported model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(exported), device="cpu", dtype="float32", batch_size=2)


def requests_of(folder: Path, name: str, **options: Any) -> list[Any]:
    from lm_eval.tasks import TaskManager

    task = TaskManager(include_path=str(folder), include_defaults=False).load([name])["tasks"][name]
    task.set_config("num_fewshot", options.pop("num_fewshot", 0))
    task.set_fewshot_seed(0)
    task.build_all_requests(rank=0, world_size=1, **options)
    return list(task.instances)


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_log_likelihoods_are_those_of_transformers(folder, model, theirs, num_fewshot):
    from groundup.evaluation.harness import HarnessModel

    asked = requests_of(folder, "pets_choice", num_fewshot=num_fewshot)
    ours = HarnessModel(model).loglikelihood(asked)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=1e-5)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]


def test_what_the_model_would_write_is_known_to_be_greedy(model, theirs):
    from lm_eval.api.instance import Instance

    from groundup.evaluation.harness import HarnessModel

    engine = model.engine()
    written = engine.submit(model.tokenizer.encode("The cat"), Sampling(temperature=0, max_tokens=3))
    list(engine.run(written))
    pairs = [("The cat", text) for text in (model.tokenizer.decode(written.token_ids), " sat", " on the moon")]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    greedy = [is_greedy for _, is_greedy in HarnessModel(model).loglikelihood(asked)]
    assert greedy == [is_greedy for _, is_greedy in theirs.loglikelihood(asked, disable_tqdm=True)]
    assert {*greedy} == {True, False}


def test_rolling_log_likelihoods_are_those_of_transformers(folder, model, theirs):
    from groundup.evaluation.harness import HarnessModel

    asked = requests_of(folder, "pets_rolling")
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert HarnessModel(model).loglikelihood_rolling(asked) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_generated_texts_are_those_of_transformers(folder, model, theirs):
    from groundup.evaluation.harness import HarnessModel

    asked = [request for request in requests_of(folder, "pets_writing") if request.args[0]]
    assert HarnessModel(model).generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_results_are_those_of_lm_eval(folder, run_dir, theirs, capsys):
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    code, out, _ = run(
        "evaluate", run_dir, "--tasks", "pets_choice,pets_rolling", "--tasks-folder", folder, "--limit", 3,
        "--json-output", capsys=capsys,
    )  # fmt: skip
    assert code == 0
    rows = json.loads(out)["results"]
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(["pets_choice", "pets_rolling"])
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", 0)
    expected = evaluate(theirs, loaded, limit=3, log_samples=False, bootstrap_iters=10)["results"]
    assert {(row["task"], row["metric"]) for row in rows} == {
        ("pets_choice", "acc"), ("pets_choice", "acc_norm"), ("pets_rolling", "bits_per_byte"),
        ("pets_rolling", "byte_perplexity"),
    }  # fmt: skip
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["task"]][f"{row['metric']},none"], rel=1e-5)
        assert row["samples"] == 3
        if row["metric"] == "acc":
            assert row["stderr"] == pytest.approx(expected["pets_choice"]["acc_stderr,none"])


def test_models_stand_side_by_side(folder, run_dir, exported, capsys):
    code, out, err = run("evaluate", run_dir, exported, "--tasks", folder / "pets_choice.yaml", capsys=capsys)
    assert (code, out.count("the end was taken"), err) == (0, 2, "")
    (line,) = [line for line in out.splitlines() if " acc " in line]
    _, *values = line.split("acc ↑")[1].split("±")
    assert values[0].split()[0] == values[1].split()[0]
    assert line.count("0.6000") == 2


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}, "nowhere.jsonl"),
    "no split": ({"test_split": "validation"}, "validation"),
    "a template": ({"doc_to_text": "{{ question | nonsense }}"}, "nonsense"),
    "a metric": ({"metric_list": [{"metric": "nonsense"}]}, "nonsense"),
    "a label": ({"doc_to_target": "{{ 7 }}"}, "cannot be run"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_of_a_task_is_one_line(fault, run_dir, tmp_path, capsys):
    change, said = WRONG[fault]
    task = TASKS["pets_choice"] | change
    write_tasks(tmp_path / "tasks", {"pets_choice": task})
    code, _, err = run(
        "evaluate", run_dir, "--tasks", "pets_choice", "--tasks-folder", tmp_path / "tasks", capsys=capsys
    )
    assert (code, err.count("\n"), "pets_choice" in err, said in err) == (2, 1, True, True), err


def test_files_that_are_no_tasks_and_names_that_are_none(folder, run_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.yaml").write_text("task: [", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("[1, 2]", encoding="utf-8")
    # Instead of lm-eval's thousands of files.
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(folder / "manager.py"))
    for tasks, said in {
        "pets_choise": "did you mean pets_choice",
        tmp_path / "broken.yaml": "broken.yaml",
        tmp_path / "list.yaml": "list.yaml",
        tmp_path / "none.yaml": "none.yaml",
        ",": "names no task",
    }.items():
        code, _, err = run("evaluate", run_dir, "--tasks", tasks, capsys=capsys)
        assert (code, err.count("\n"), said in err) == (2, 1, True), err
    (tmp_path / "more.yaml").write_text('{"task": "more", "include": "nowhere.yaml"}', encoding="utf-8")
    code, _, err = run("evaluate", run_dir, "--tasks", "more", "--tasks-folder", tmp_path, capsys=capsys)
    assert (code, err.count("\n"), "more.yaml" in err) == (2, 1, True), err
    code, _, err = run("evaluate", run_dir, "--tasks", "x", "--tasks-folder", tmp_path / "nowhere", capsys=capsys)
    assert (code, err.count("\n"), "nowhere" in err) == (2, 1, True), err


def test_without_a_network_a_line_says_that_the_data_could_not_be_fetched(run_dir, tmp_path, monkeypatch, capsys):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    task = {"task": "far", "dataset_path": "no-one/nothing", "output_type": "multiple_choice", "test_split": "test"}
    (tmp_path / "far.yaml").write_text(json.dumps(TASKS["pets_choice"] | task), encoding="utf-8")
    code, _, err = run("evaluate", run_dir, "--tasks", tmp_path / "far.yaml", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1), err
    assert "could not be fetched" in err


def test_what_a_model_cannot_do_is_one_line(folder, model, tmp_path):
    from lm_eval.api.instance import Instance

    from groundup.evaluation.harness import HarnessModel

    asked = HarnessModel(model)
    for until, said in (({"max_gen_toks": 96}, "max_gen_toks"), ({"num_beams": 4}, "num_beams")):
        with pytest.raises(ConfigError, match=said):
            asked.generate_until([Instance("generate_until", {}, ("The", until), 0)])
    with pytest.raises(DataError, match="and the context 96"):
        asked.loglikelihood([Instance("loglikelihood", {}, ("The", "é" * 60), 0)])
    with pytest.raises(DataError, match="empty continuation"):
        asked.loglikelihood([Instance("loglikelihood", {}, ("The", ""), 0)])
    assert asked.generate_until([Instance("generate_until", {}, ("", {"max_gen_toks": 2}), 0)]) != [""]
    nameless = SampleConfig(begin_token="", end_token="")
    bare = groundup.LanguageModel(model.model, model.tokenizer, sample=nameless)
    with pytest.raises(ConfigError, match="no token that begins or ends"):
        HarnessModel(bare).loglikelihood([Instance("loglikelihood", {}, ("", "x"), 0)])


def test_conversations_are_rendered_as_transformers_does(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    from groundup.evaluation.harness import HarnessModel

    chat = tokenizer.with_special_tokens(["<|im_start|>", "<|im_end|>"])
    folder = made_run(tmp_path / "chat", chat)
    RunDirectory(folder).write_chat_template(load_template("chatml", "<|endoftext|>").text)
    export_model(folder, tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = HarnessModel(groundup.load(folder))
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": " The cat? "}]
    assert ours.apply_chat_template(talk) == theirs.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=True
    )
    begun = [*talk, {"role": "assistant", "content": "The answer is"}]
    assert ours.apply_chat_template(begun, add_generation_prompt=False) == theirs.apply_chat_template(
        begun, tokenize=False, continue_final_message=True
    )
    ours.close()
