"""The README and the pages of docs/: every link, command, flag, example and picture in them.

Each page's blocks of ``bash`` and ``python`` are run in the page's order, in a temporary folder. Small sizes replace
the page's (`smaller`), never other verbs. A block after ``<!-- not run: reason -->`` is only checked for flags that
exist, and ``<!-- file: NAME -->`` before a block writes it to that file.
"""

import contextlib
import functools
import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import groundup
from groundup.cli.main import VERBS, main
from groundup.config import RunConfig, flatten, load_recipe, short_names
from groundup.config.recipe import recipes_dir

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ["CHANGELOG.md", "docs/LAB.md", "docs/study/README.md", "docs/study/report.md"]
"""Records of what was: their links are checked, their commands and words are those of their day."""
ALL = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))),
]
PAGES = [page for page in ALL if page not in RECORDS]
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"((?:^<!-- .*? -->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
README_LINES = 150
RIDDLES = [
    "nobody",
    "whoever",
    "of its own",
    "so many",
    "by then",
    "by the clock",
    "comes apart",
    "come apart",
    "sitting",
]
# What a page's folder holds before its first command; other pages have all that how-to/index.md promises.
STARTS_WITH: dict[str, list[str]] = {
    "README.md": [],
    "docs/tutorials/first-model.md": [],
    "docs/tutorials/course.md": [],
    "docs/tutorials/first-sweep.md": [],
    "docs/tutorials/your-own-text.md": ["train.txt", "valid.txt"],
}
# It measures the speed of tokenizers, each in a separate process and for as long on a small text as on a large one.
LONG = ["docs/how-to/compare-tokenizers.md"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


class Block(NamedTuple):
    language: str
    body: str
    marks: str
    """The comments before it."""


def blocks(page: str) -> list[Block]:
    return [Block(language, body, marks) for marks, language, body in BLOCK.findall(text_of(page))]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a bash block."""
    for line in block.body.replace("\\\n", " ").split("\n"):
        if words := shlex.split(line, comments=True):
            yield words


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = load_build()


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        BUILD.anchor(re.sub(r"[`*\\]", "", heading)) for heading in re.findall(r"^#+ (.*)$", outside_code, re.MULTILINE)
    }


@pytest.mark.parametrize("page", ALL)
def test_links_images_and_anchors_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    missing = []
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path.read_text("utf-8"))):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/") and page != "docs/index.md"])
def test_every_page_is_in_the_navigation_and_reached_by_a_link(page: str) -> None:
    assert page.removeprefix("docs/") in (ROOT / "docs" / "zensical.toml").read_text("utf-8")
    links = [
        ((ROOT / other).parent / link.partition("#")[0]).resolve()
        for other in ALL
        if other != page
        for link in LINK.findall(text_of(other))
    ]
    assert (ROOT / page).resolve() in links


# Flags


@functools.cache
def flags_of(verb: str) -> frozenset[str]:
    """Every flag that a verb's help names, with underscores; of `train` also the last parts that are enough."""
    named = {flag.replace("-", "_").rstrip("._") for flag in FLAG.findall(BUILD.help_of(verb))}
    if verb == "train":
        assert {f"__{name}" for name in flatten(RunConfig())} <= named
        named |= {f"__{short}" for short, full in short_names().items() if f"__{full}" in named}
    return frozenset(named)


def verb_of(words: list[str]) -> str | None:
    """The verb of a command of groundup, also behind torchrun or srun; None if it is another program."""
    if "groundup" not in words:
        return None
    rest = words[words.index("groundup") + 1 :]
    return next((verb for n in (2, 1) if (verb := " ".join(rest[:n])) in VERBS), "")


def unknown_flags(words: list[str]) -> list[str]:
    """Flags of a command that its verb, or the script of benchmarks/ that it runs, does not have."""
    verb = verb_of(words)
    if verb is not None:
        assert verb or set(words) & {"VERB", "--version"} or words[-1] == "groundup", words
        given = [
            flag.replace("-", "_")
            for word in words[words.index("groundup") :]
            for flag in FLAG.findall(word.partition("=")[0])
        ]
        return [] if not verb else [flag for flag in given if flag not in flags_of(verb) | {"__help"}]
    scripts = [word for word in words if word.startswith(("benchmarks/", "docs/")) and word.endswith(".py")]
    if not scripts:
        return []
    source = text_of(scripts[0]) + text_of("benchmarks/side_by_side.py")
    return [flag for word in words for flag in FLAG.findall(word) if f'"{flag}"' not in source]


@pytest.mark.parametrize("page", PAGES)
def test_flags_of_commands_exist(page: str) -> None:
    unknown = {shlex.join(words): bad for block in blocks(page) if block.language == "bash" for words in commands(block)
               if (bad := unknown_flags(words))}  # fmt: skip
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL).replace("\n", " ")
    for span in re.findall(r"`((?:groundup|python|torchrun) [^`]+)`", prose):
        if bad := unknown_flags(shlex.split(span)):
            unknown[span] = bad
    assert unknown == {}


FOREIGN = {
    "--nproc-per-node": "torchrun",
    "--max-restarts": "torchrun",
    "--signal": "scancel",
    "--logdir": "tensorboard",
}
"""Flags of other programs, which their section must name."""


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_sentences_exist_in_a_verb_of_their_section(page: str) -> None:
    text = text_of(page)
    verbs_of_page = verbs_named(text)
    unknown = []
    for section in re.split(
        r"^(?=#+ )", re.sub(r"^```.*?^```", _only_commands, text, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE
    ):
        known: set[str] = set().union(*map(flags_of, verbs_named(section) or verbs_of_page))
        scripts = "".join(text_of(script) for script in set(re.findall(r"benchmarks/\w+\.py", section)))
        for flag in FLAG.findall(section):
            name = flag.replace("-", "_").rstrip("._")
            foreign = flag in FOREIGN and FOREIGN[flag] in section
            if name not in known and not foreign and f'"{flag}"' not in scripts and name != "__help":
                unknown.append(flag)
    assert unknown == []


def _only_commands(block: re.Match[str]) -> str:
    return block[0] if block[0].startswith("```bash") else ""


def verbs_named(text: str) -> set[str]:
    """The verbs that a text names: `groundup VERB`, or the verb alone in code."""
    found = {verb for verb in VERBS if re.search(rf"groundup {verb}\b", text.replace("\n", " ")) or f"`{verb}`" in text}
    return found | {verb for verb in VERBS if re.search(rf"`{verb} [^`\n]*`", text)}


# Commands and examples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small stand-ins for all that how-to/index.md says is there, and for the inputs of the other pages."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.chdir(folder):
        groundup_runs("stories train.txt --megabytes 0.06".split())
        groundup_runs("stories valid.txt --megabytes 0.02 --seed 1".split())
        rows = [{"title": f"Story {i}", "text": f"Once upon a time there was fox number {i}."} for i in range(20)]
        Path("more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        groundup_runs("tokenizer train train.txt --vocab-size 300 --out tok".split())
        for split in ("train", "valid"):
            groundup_runs(f"encode {split}.txt --tokenizer tok --out data/{split}".split())
            shutil.copytree(f"data/{split}", f"data/tinystories/{split}")
        for seed, name in enumerate(("first", "second")):
            command = f"groundup train demo --data.train data/train --data.valid data/valid --name {name} --seed {seed}"
            groundup_runs(smaller(command.split())[1:])
    return folder


def groundup_runs(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None), arguments


SIZES = {
    "train": {"d_model": 16, "num_layers": 1, "num_heads": 2, "context_length": 16, "batch_size": 2, "max_iters": 4,
              "warmup_iters": 1, "eval_windows": 4, "eval_interval": 2, "checkpoint_interval": 2, "sample.tokens": 4},
    "stories": {"megabytes": 0.05},
    "tokenizer train": {"vocab_size": 300},
    "generate": {"tokens": 4},
    "sweep": {"minutes": 2},
}  # fmt: skip
LONGER = {"max_iters": 8, "stop_at": 2}
"""Sizes of a run that is resumed or stopped; only those that a command names."""
ADDED = {"train"}
"""Verbs whose sizes are also added where a command does not name them."""
PLAN = {
    "d_model = 64": "d_model = 16\nnum_heads = 2\nnum_layers = 1\neval_windows = 4\nwarmup_iters = 1",
    "context_length = 64": "context_length = 16",
    "max_iters = 200": "max_iters = 4",
    "[0.001, 0.003, 0.01, 0.03, 0.3]": "[0.001, 0.01]",
    "warmup_iters = 20\n": "warmup_iters = 1\n",
    "[32, 64, 128]": "[16, 24, 32]",
    "[100, 400, 1600]": "[2, 4, 8]",
}


def smaller(words: list[str]) -> list[str]:
    """The same command with small sizes: values of flags are replaced, and those of a new training run added."""
    verb = verb_of(words) or ""
    sizes = dict(SIZES.get(verb, {}))
    out = list(words)
    if verb == "train" and "--resume" in words:
        sizes |= LONGER
    elif "--stop_at" in words:
        out[words.index("--stop_at") + 1] = str(LONGER["stop_at"])
    if verb == "train" and "--minutes" in words:  # in place of the steps
        out[words.index("--minutes") + 1] = "0.005"
        sizes.pop("max_iters")
    for i, word in enumerate(out[:-1]):
        name = word.removeprefix("--").replace("-", "_").rpartition(".")[2] if word.startswith("--") else ""
        full = next((size for size in sizes if size.rpartition(".")[2] == name), None)
        if full is not None:
            out[i + 1] = str(sizes.pop(full))
    if verb in ADDED and "--resume" not in words:
        out += [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    return out


def run_page(page: str, not_runnable: Callable[[Block], bool]) -> int:
    """Run the blocks of a page in the current folder; returns how many were run."""
    names: dict[str, object] = {}
    done = 0
    for block in blocks(page):
        if file := re.search(r"<!-- file: (\S+) -->", block.marks):
            body = functools.reduce(lambda text, pair: text.replace(*pair), PLAN.items(), block.body)
            Path(file[1]).write_text(body, encoding="utf-8")
        if not_runnable(block) or block.language not in ("bash", "python"):
            continue
        done += 1
        if block.language == "python":
            exec(compile(block.body, page, "exec"), names)
            continue
        for words in commands(block):
            assert words[0] == "groundup", f"{page}: {words} is not a command of groundup; say why it is not run"
            groundup_runs(smaller(words)[1:])
    return done


WITH_CODE = [page for page in PAGES if any(block.language in ("bash", "python") for block in blocks(page))]


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.long] * (page in LONG)) for page in WITH_CODE])
def test_commands_and_examples_run_in_the_order_of_their_page(
    page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in STARTS_WITH.get(page, [path.name for path in world.iterdir()]):
        copy = shutil.copytree if (world / name).is_dir() else shutil.copy
        copy(world / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    run_page(page, lambda block: "<!-- not run: " in block.marks)


@pytest.mark.parametrize("page", WITH_CODE)
def test_what_is_not_run_has_a_reason_and_names_what_exists(page: str) -> None:
    makefile, extras = text_of("Makefile"), tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for block in blocks(page):
        if "not run" in block.marks:
            assert re.search(r"<!-- not run: \S.* -->", block.marks)
        for words in commands(block) if block.language == "bash" else ():
            if words[0] == "make":
                assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), words
            if words[:2] == ["pip", "install"]:
                named = re.findall(r"[\w-]+", words[2].partition("[")[2])
                assert set(named) <= set(extras), words
            if scripts := [word for word in words if word.endswith(".py")]:
                assert (ROOT / scripts[0]).exists(), words


def test_what_is_installed_in_sentences_exists() -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"pip install '[^'\[]*\[([\w,-]+)\]'", text_of(page)):
            assert set(named.split(",")) <= set(extras), page


# The README, the words, the generated pages


def test_the_readme_is_short_and_its_picture_is_there() -> None:
    assert len(text_of("README.md").splitlines()) < README_LINES
    assert (ROOT / "docs" / "images" / "demo.svg").read_text("utf-8").startswith("<svg")


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_plain_words(page: str) -> None:
    prose = re.sub(r"^```.*?^```|^>.*?$", "", text_of(page), flags=re.MULTILINE | re.DOTALL).lower()
    assert [riddle for riddle in RIDDLES if riddle in prose] == []


def test_generated_pages_have_every_verb_option_and_name(tmp_path: Path) -> None:
    BUILD.write_pages(tmp_path)
    verbs, options, names = ((tmp_path / f"{name}.md").read_text("utf-8") for name in ("verbs", "options", "python"))
    for verb in VERBS:
        section = verbs.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]
        usage = f"usage: groundup {verb}"
        assert usage in section, verb
        missing = [flag for flag in flags_of(verb) if flag not in section.replace("-", "_") and flag != "__help"]
        assert verb == "train" or missing == [], verb
    for name in flatten(RunConfig()):
        assert re.search(rf"^\| `--{name.replace('_', '-')}[ ,`]", options, re.MULTILINE), name
    for name in groundup.__all__:
        assert f"\n## {name}\n\n```python\n{name}(" in names, name


def test_the_site_is_built_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILD, "BUILD", tmp_path / "docs")
    assert BUILD.build() == 0
    assert {"index.html", "architecture.html", "reference/verbs.html", "how-to/resume.html"} <= {
        str(path.relative_to(tmp_path / "docs" / "site")) for path in (tmp_path / "docs" / "site").rglob("*.html")
    }


@pytest.mark.parametrize("recipe", sorted(recipes_dir().glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_and_are_named_like_their_files(recipe: Path) -> None:
    assert load_recipe(recipe.stem).name == recipe.stem
