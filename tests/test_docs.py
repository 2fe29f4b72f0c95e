"""What the documents promise exists: commands, files, and nothing about any one machine."""

import re
import shlex
from pathlib import Path

import pytest

from groundup.cli.flags import read_flags
from groundup.cli.main import split_verb
from groundup.config import load_recipe
from groundup.config.recipe import recipes_dir

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)\)")


def commands() -> list[tuple[str, str]]:
    """(page, command after `groundup`) of every line of code in the documents."""
    found = []
    for page in PAGES:
        fenced = False
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                fenced = not fenced
            elif (fenced or line.startswith("    ")) and line.strip().startswith("groundup "):
                found.append((page.name, re.sub(r"\s+#.*", "", line.strip().removeprefix("groundup "))))
    return found


def test_there_are_commands_to_check():
    assert len(commands()) > 5


@pytest.mark.parametrize(("page", "command"), commands())
def test_documented_commands_name_verbs_and_flags_that_exist(page: str, command: str):
    verb, rest = split_verb(shlex.split(command))
    if verb == "train":
        flags = read_flags(rest)
        if flags.recipe:
            load_recipe(flags.recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("recipe", sorted(recipes_dir().glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_and_are_named_like_their_files(recipe: Path):
    assert load_recipe(recipe.stem).name == recipe.stem
