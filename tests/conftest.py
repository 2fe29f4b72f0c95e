"""Fixtures every test may use: where the real text lies, and small objects that several rooms need."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# One thread for torch in each process: tests run in parallel, and their threads would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Data sets of lm-eval's tasks are copied there.
os.environ.setdefault("HF_DATASETS_CACHE", str(Path(tempfile.gettempdir()) / f"groundup-tests-{os.getuid()}"))

# What a shell has put into the background ignores Ctrl-C, and so would all that tests start to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a shared machine makes any example slow now and then, and speed is the benchmarks' business. The same
# examples every time, so that a run can be repeated; GROUNDUP_EXPLORE=1 (make test-long) looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("explore" if os.environ.get("GROUNDUP_EXPLORE") else "repeatable")


SENTENCES = [
    "The cat sat on the mat and looked at the moon.",
    "A dog ran to the pond, and the cat ran after it.",
    '"Come back," said the cat, "the moon is in the pond!"',
    "The dog looked at the moon in the pond and sat on the mat.",
]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real text and GPT-2 files; tests that want it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GROUNDUP_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set GROUNDUP_DATA to run this test")
    return folder


@pytest.fixture
def unreadable_file() -> Iterator[Path]:
    """A text file whose content may not be read. Root may read everything, so a test run by root gives that up."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, into which nobody else may look
        path = Path(folder) / "text.txt"
        path.write_bytes(b"text")
        path.chmod(0)
        Path(folder).chmod(0o755)
        was = os.geteuid()
        if was == 0:
            os.seteuid(nobody)
        try:
            yield path
        finally:
            os.seteuid(was)


@pytest.fixture(scope="session")
def gpt2_files(data_dir: Path) -> tuple[Path, Path]:
    """GPT-2's ``encoder.json`` and ``vocab.bpe``."""
    files = data_dir / "gpt2" / "encoder.json", data_dir / "gpt2" / "vocab.bpe"
    if not all(file.is_file() for file in files):
        pytest.skip(f"no GPT-2 vocabulary in {data_dir / 'gpt2'}")
    return files


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``text``, ``tokenizer/``, and the shards ``train/`` and ``valid/``."""
    from groundup.data.encode import encode_files
    from groundup.tokenizer import Tokenizer, train_bpe

    folder = tmp_path_factory.mktemp("tokens")
    for name, repeats in (("train", 60), ("valid", 5)):
        documents = [" ".join(SENTENCES[i % 4 :] + SENTENCES[: i % 3]) for i in range(repeats)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    vocab, merges = train_bpe(folder / "train.txt", 300, ["<|endoftext|>"])
    tokenizer = Tokenizer(vocab, merges, ["<|endoftext|>"])
    tokenizer.save(folder / "tokenizer")
    for name in ("train", "valid"):
        encode_files(folder / f"{name}.txt", tokenizer, folder / name)
    return folder
