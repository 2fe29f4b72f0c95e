"""Three local tasks of lm-evaluation-harness, one for each kind of request."""

import json
from pathlib import Path

QUESTIONS = [
    {"question": "The cat sat on the", "choices": ["mat", "moon in the pond", "dog", " cat"], "label": 0},
    {"question": "A dog ran to the pond, and the cat ran after", "choices": ["it", "them all", "me"], "label": 0},
    {"question": '"Come back," said the ', "choices": ["cat", "mat", "x"], "label": 1},
    {"question": "", "choices": ["The dog", "A cat", "!"], "label": 2},
    # Longer than the context of 96 tokens.
    {"question": "The dog looked at the moon in the pond and sat. " * 12, "choices": ["The end", "No"], "label": 1},
]
TEXTS = ["The cat sat on the mat.", "", "é 日本 🎉\r\n", "The dog looked at the moon in the pond. " * 20, "x"]
TASKS = {
    "pets_choice": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}", "target_delimiter": "", "fewshot_split": "train",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "pets_rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
    },
    "pets_writing": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n", "zz"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


def write_tasks(folder: Path, tasks: dict[str, dict] | None = None) -> Path:
    """YAML files of tasks (JSON is YAML) with their data beside them."""
    folder.mkdir(exist_ok=True)
    rows = {
        "pets_choice": QUESTIONS,
        "pets_rolling": [{"text": text} for text in TEXTS],
        "pets_writing": [{"question": q["question"], "answer": "x"} for q in QUESTIONS],
    }
    for name, task in (tasks or TASKS).items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        files = {"train": str(data), "test": str(data)}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps(whole | task), encoding="utf-8")
    return folder
