"""Build the documentation site offline, into build/docs/site.

    python docs/build.py                   # or: make docs
    python docs/build.py --pages FOLDER    # only generate the three reference pages, into FOLDER

The pages of docs/ are copied to build/docs/source, the pages on verbs, options and Python names are generated from the
program beside them, and zensical makes the site. Links to files outside docs/ become plain text, because
the site has no copy of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BUILD = DOCS.parent / "build" / "docs"
GENERATED = {"verbs": "Verbs", "options": "Options", "python": "Python names"}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")


def verbs_page() -> str:
    """The page of all verbs, from their --help."""
    from groundup.cli.main import VERBS

    parts = ["# Verbs\n\nGenerated from `groundup VERB --help`. `groundup --version` prints the version.\n"]
    rows = "".join(f"| [`{verb}`](#{anchor(verb)}) | {about} |\n" for verb, (_, _, about) in VERBS.items())
    parts.append(f"| verb | what it does |\n|---|---|\n{rows}")
    for verb in VERBS:
        usage, about, sections = read_help(help_of(verb))
        about = re.sub(
            r"(?:^  .*\n?)+", lambda found: f"```text\n{textwrap.dedent(found[0]).rstrip()}\n```\n", about, flags=re.M
        )
        parts.append(f"## {verb}\n\n{about}\n\n```text\n{usage}\n```\n")
        if verb == "train":
            parts.append("The options are on [their page](options.md).\n")
            continue
        for title, _, rows in sections:
            parts.append(f"{table(title.removesuffix(' arguments'), rows)}\n")
    return "\n".join(parts)


def options_page() -> str:
    """The page of all options of a run, from the help of `groundup train` and their effects."""
    from groundup.config.names import effect_of

    parts = [
        "# Options\n\nThe options of a run, in a recipe (`[model]`, `d_model = 256`) and on the command line of "
        "`groundup train` (`--model.d-model 256`; `--d_model 256` where the last part is unique). The last column says "
        "what an option changes: the *result* of a run, only its *speed* (results agree to rounding), or only its "
        "*record* (what is measured, saved and shown). Options that change the result cannot change when a run is "
        "resumed.\n"
    ]
    for title, about, rows in read_help(help_of("train"))[2]:
        lines = []
        for name, meaning in rows:
            option = re.match(r"--([\w.-]+)", name)
            if option and option[1] != "help":
                lines.append(f"| {cell(f'`{name}`')} | {cell(meaning)} | {effect_of(option[1].replace('-', '_'))} |\n")
        heading = title.removesuffix(" options")
        heading = "Run" if heading == "options" else heading
        table = "| option | meaning | changes |\n|---|---|---|\n" + "".join(lines)
        parts.append(f"## {heading}\n\n{about}\n\n{table}")
    return "\n".join(parts)


def python_page() -> str:
    """The page of the public names, from their signatures and docstrings."""
    import groundup

    parts = ["# Python names\n\nGenerated from the docstrings of the names that `import groundup` offers.\n"]
    for name in sorted(groundup.__all__, key=str.lower):
        thing = getattr(groundup, name)
        parts.append(f"## {name}\n\n{described(name, thing)}")
        if inspect.isclass(thing):
            for attribute, member in vars(thing).items():
                function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                function = function.fget if isinstance(function, property) else function
                if (
                    not attribute.startswith("_")
                    and callable(function)
                    and inspect.getdoc(function)
                    and attribute != "forward"
                ):
                    parts.append(
                        f"### {name}.{attribute}\n\n{described(attribute, function, isinstance(member, property))}"
                    )
    return "\n".join(parts)


def described(name: str, thing: object, is_property: bool = False) -> str:
    """Signature and docstring of a name, as Markdown."""
    signature = "" if is_property else str(inspect.signature(thing)).replace("'", "")
    signature = re.sub(r"\b(?:collections\.abc|typing|torch\.nn\.parameter|groundup[\w.]*)\.(?=\w)", "", signature)
    if len(name + signature) > 100:
        signature = "(\n" + "".join(f"    {part},\n" for part in split_arguments(signature)) + ")" + returned(signature)
    return f"```python\n{name}{signature}\n```\n\n{markdown_of(inspect.getdoc(thing) or '')}\n"


def returned(signature: str) -> str:
    """The return annotation of a signature, with its arrow."""
    return (
        signature[signature.rindex(")") + 1 :] if " -> " not in signature else " -> " + signature.rpartition(" -> ")[2]
    )


def split_arguments(signature: str) -> list[str]:
    """The parameters of a signature, split at its outer commas."""
    inside, depth, parts = signature[1 : signature.rindex(")" if " -> " not in signature else ") -> ")], 0, [""]
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def markdown_of(doc: str) -> str:
    """A docstring as Markdown: roles become code, sections become lists."""
    doc = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", doc)
    out: list[str] = []
    lines = doc.split("\n")
    while lines:
        line = lines.pop(0)
        if line in ("Args:", "Raises:", "Returns:", "Yields:", "Attributes:"):
            body = []
            while lines and (not lines[0].strip() or lines[0].startswith("    ")):
                body.append(lines.pop(0))
            out += [
                "",
                f"**{line[:-1]}**",
                "",
                *as_list(textwrap.dedent("\n".join(body)).strip(), named=line != "Returns:"),
                "",
            ]
        else:
            out.append(line)
    return "\n".join(out).strip()


def as_list(body: str, named: bool) -> list[str]:
    """The entries of a section of a docstring as a Markdown list."""
    entries: list[str] = []
    for line in body.split("\n"):
        if line.startswith((" ", "\t")) and entries:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line.strip())
    if not named and not all(re.match(r"\w+: ", entry) for entry in entries):
        return [" ".join(entries)]
    return [
        re.sub(r"^([\w*, ]+?): ", r"- `\1`: ", entry) if re.match(r"[\w*, ]+?: ", entry) else f"- {entry}"
        for entry in entries
    ]


def help_of(verb: str) -> str:
    """What `groundup VERB --help` prints."""
    main = importlib.import_module("groundup.cli.main").main
    # tyro draws its boxes only where the output can encode them.
    printed, columns = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*verb.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    printed.seek(0)
    return re.sub(r"\x1b\[[\d;]*m", "", printed.read())


Section = tuple[str, str, list[tuple[str, str]]]


def read_help(printed: str) -> tuple[str, str, list[Section]]:
    """The usage line, the description and the boxes of a help text: title, description, (name, meaning) rows."""
    head, _, boxes = printed.partition("╭─")
    usage, _, about = head.strip().partition("\n\n")
    sections: list[Section] = []
    for box in re.split(r"^╭─", "╭─" + boxes, flags=re.MULTILINE)[1:]:
        title = box.partition("─")[0].strip()
        lines = [line.strip("│\n").rstrip()[1:] for line in box.split("\n") if line.startswith("│")]
        described = ""
        if any(set(line) <= {"─"} and line for line in lines):
            rule = next(i for i, line in enumerate(lines) if line and set(line) <= {"─"})
            described, lines = " ".join(lines[:rule]), lines[rule + 1 :]
        rows: list[list[str]] = []
        for line in lines:
            if line[:1].strip():
                name, _, meaning = line.partition("  ")
                rows.append([name.strip(), meaning.strip()])
            elif rows and line.strip():
                rows[-1][1] = f"{rows[-1][1]} {line.strip()}".strip()
        sections.append((title, described, [(name, meaning) for name, meaning in rows]))
    return usage, about, sections


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """Options with their meaning as a table; --help itself is left out."""
    kept = [(name, meaning) for name, meaning in rows if not name.startswith("-h,")]
    body = "\n".join(f"| {cell(f'`{name}`')} | {cell(meaning)} |" for name, meaning in kept)
    return f"| {title} | |\n|---|---|\n{body}\n" if kept else ""


def cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    if not text.startswith("`"):
        text = re.sub(r"\S*<[^>]+>(?:/<[^>]+>)*|\|", r"`\g<0>`", text)
    return text.replace("|", "\\|")


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_links_outside(page: Path, text: str) -> str:
    """Links to files that the site does not have as their text alone."""

    def kept(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        outside = target and "://" not in target and not (page.parent / target).resolve().is_relative_to(DOCS)
        return match[1] if outside else match[0]

    return LINK.sub(kept, text)


def write_pages(folder: Path) -> None:
    """Generate the three reference pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in {"verbs": verbs_page, "options": options_page, "python": python_page}.items():
        (folder / f"{name}.md").write_text(page(), encoding="utf-8")


def build() -> int:
    """Copy, generate, and run zensical; returns its exit code."""
    shutil.rmtree(BUILD, ignore_errors=True)
    source = BUILD / "source"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("build.py", "zensical.toml", "__pycache__"))
    for page in DOCS.rglob("*.md"):
        text = without_links_outside(page, page.read_text(encoding="utf-8"))
        if page == DOCS / "reference" / "index.md":  # in the repository the generated pages are names without a link
            for name, title in GENERATED.items():
                text = text.replace(f"| {title} |", f"| [{title}]({name}.md) |")
        (source / page.relative_to(DOCS)).write_text(text, encoding="utf-8")
    write_pages(source / "reference")
    shutil.copy(DOCS / "zensical.toml", BUILD)
    zensical = Path(sys.executable).with_name("zensical")
    code = subprocess.run([zensical, "build", "--config-file", "zensical.toml"], cwd=BUILD).returncode
    for page in (BUILD / "site").rglob("*.html"):
        # Zensical's own help for the search from the disk comes from a server; ours is javascripts/search-from-disk.js.
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"<script src=\"https?:[^>]*></script>", "", text), encoding="utf-8")
    return code


def main() -> None:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, help="only generate the reference pages, into this folder")
    folder = parser.parse_args().pages
    if folder:
        write_pages(folder)
    else:
        sys.exit(build())


if __name__ == "__main__":
    main()
