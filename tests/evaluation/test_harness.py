"""Tasks of lm-evaluation-harness: the same numbers as its own class for transformers, and errors as one line."""

from pathlib import Path
from typing import Any

import pytest

import groundup
from groundup.cli.main import main
from local_tasks import write_tasks

pytest.importorskip("lm_eval", reason="pip install '.[eval]'")


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_log_likelihoods_are_those_of_transformers(folder, model, theirs, num_fewshot):
    from groundup.evaluation.harness import HarnessModel

    asked = requests_of(folder, "pets_choice", num_fewshot=num_fewshot)
    ours = HarnessModel(model).loglikelihood(asked)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=1e-5)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]


@pytest.mark.filterwarnings("ignore")
def test_what_the_model_would_write_is_known_to_be_greedy(model, theirs):
    from lm_eval.api.instance import Instance

    from groundup.evaluation.harness import HarnessModel

    written = model.engine().submit(model.tokenizer.encode("The cat"), groundup.generation.Sampling(temperature=0))
    pairs = []
    for _ in range(1):
        engine = model.engine()
        written = engine.submit(
            model.tokenizer.encode("The cat"), groundup.generation.Sampling(temperature=0, max_tokens=3)
        )
        list(engine.run(written))
        pairs = [("The cat", model.tokenizer.decode(written.token_ids)), ("The cat", " sat")]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    ours, expected = HarnessModel(model).loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in expected]


@pytest.mark.filterwarnings("ignore")
def test_rolling_log_likelihoods_are_those_of_transformers(folder, model, theirs):
    from groundup.evaluation.harness import HarnessModel

    asked = requests_of(folder, "pets_rolling")
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert HarnessModel(model).loglikelihood_rolling(asked) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_generated_texts_are_those_of_transformers(folder, model, theirs):
    from groundup.evaluation.harness import HarnessModel

    asked = [request for request in requests_of(folder, "pets_writing") if request.args[0]]
    assert HarnessModel(model).generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)
