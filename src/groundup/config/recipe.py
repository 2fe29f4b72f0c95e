"""Recipes: runs described in TOML, read strictly into the config dataclasses and written back.

A recipe names the values that differ from the defaults; the command line overrides them
(``--model.d_model 256``); the resolved result is written into the run directory.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from groundup.config.options import RunConfig
from groundup.errors import ConfigError, FileMissingError
from groundup.system.files import parse_toml, read_text, why, write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def from_dict(cls: type[Config], values: Mapping[str, Any], *, place: str = "") -> Config:
    """A config dataclass from nested plain values, checked strictly.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    arguments: dict[str, Any] = {}
    for key, value in with_single_betas(values, place, known).items():
        where = f"{place}.{key}" if place else key
        if key not in known:
            raise ConfigError(f"unknown option {where}{suggestion(key, known)}")
        arguments[key] = _checked(hints[key], value, where)
    return cls(**arguments)


def with_single_betas(values: Mapping[str, Any], place: str, known: typing.Container[str]) -> Mapping[str, Any]:
    """The values with ``betas = [0.9, 0.95]`` as beta1 and beta2, which an option each lets plans vary.

    Args:
        known: options of the table; nothing happens where it has no beta1.

    Raises:
        ConfigError: not two numbers, or one of them again as beta1 or beta2.
    """
    if "betas" not in values or "beta1" not in known:
        return values
    betas, rest = values["betas"], {key: value for key, value in values.items() if key != "betas"}
    where = f"{place}.betas" if place else "betas"
    numbers = isinstance(betas, list | tuple) and all(type(beta) in (int, float) for beta in betas)
    if not numbers or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{where} = {betas!r}; expected two numbers in [0, 1), such as [0.9, 0.95]")
    for name in ("beta1", "beta2"):
        if rest.get(name) is not None:
            raise ConfigError(f"{where} = {list(betas)} beside {name} = {rest[name]}; leave one of them out")
    return rest | {"beta1": float(betas[0]), "beta2": float(betas[1])}


_MOST_SUGGESTIONS = 30


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known word, or a list of those there are where none is near."""
    known = sorted(set(known))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = f", … ({len(known)} in all)" if len(known) > _MOST_SUGGESTIONS else ""
    return f"; valid: {', '.join(known[:_MOST_SUGGESTIONS])}{more}"


def _checked(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}; expected a table of options, [{where}]")
        return from_dict(hint, value, place=where)
    if type(None) in typing.get_args(hint):  # unset, or a value of the other type
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        if value is None:
            return None
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            listed = ", ".join(map(repr, choices))
            raise ConfigError(f"{where} = {value!r}; expected one of {listed}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} = {value!r} ({type(value).__name__}); expected {hint.__name__}")
    return value


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested plain values.

    Raises:
        FileMissingError: the file does not exist.
        ConfigError: it cannot be read, or is not valid TOML.
    """
    try:
        text = read_text(path, "surrogateescape")  # see save_toml
    except FileNotFoundError:
        raise FileMissingError(f"no file {path}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {why(error)}") from None
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def load_recipe(name_or_path: str, base: RunConfig | None = None, ignored: typing.Collection[str] = ()) -> RunConfig:
    """The run a recipe describes: a path to a TOML file, or the name of a recipe that groundup ships.

    Args:
        base: options that the recipe leaves out; the defaults if None.
        ignored: full names of options that are the base's, even if the recipe has them.

    Raises:
        FileMissingError: neither a file nor a shipped recipe of that name.
        ConfigError: unknown key or impossible value, with the place.
    """
    path = find_recipe(name_or_path)
    values = load_toml(path)
    if base is not None:
        sections = {name: value for name, value in values.items() if isinstance(value, dict)}
        kept = {
            section: {key: value for key, value in table.items() if f"{section}.{key}" not in ignored}
            for section, table in sections.items()
        }
        values = _over(to_dict(base), values | kept)
    try:
        return from_dict(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Nested values, and those of the base that they leave out."""
    both = [key for key in values if isinstance(base.get(key), dict) and isinstance(values[key], dict)]
    unset = ("beta1", "beta2") if "betas" in values else ()  # see with_single_betas
    kept = {key: value for key, value in base.items() if key not in unset}
    return kept | values | {key: _over(base[key], values[key]) for key in both}


def recipes_dir() -> Path:
    """The folder of shipped recipes: beside the package when installed, in the source tree otherwise."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def find_recipe(name_or_path: str) -> Path:
    """Path of a recipe given by path or by shipped name."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or os.path.isfile(path):
        if not os.path.exists(path):
            raise FileMissingError(f"no recipe file {path}")
        return path
    shipped = {p.stem: p for p in recipes_dir().glob("*.toml")}
    if name_or_path not in shipped:
        raise FileMissingError(f"no recipe named {name_or_path!r}{suggestion(name_or_path, shipped)}")
    return shipped[name_or_path]


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain values, the inverse of :func:`from_dict`. An option that is unset is None."""
    return dataclasses.asdict(config)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with options replaced by dotted name: ``override(config, {"train.max_iters": 100})``.

    Raises:
        ConfigError: an unknown name, or an impossible value.
    """
    nested, known = to_dict(config), list(flatten(config))
    for key, value in values.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"unknown option {key}: {section} is a value, not a section{suggestion(key, known)}")
        place[last] = value
    return from_dict(type(config), nested)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys: ``{"model.d_model": 512, ...}``."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        key = f"{prefix}{f.name}"
        flat |= flatten(value, f"{key}.") if dataclasses.is_dataclass(value) else {key: value}
    return flat


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any], free: tuple[str, ...]) -> list[str]:
    """List options that differ, for a sentence: ``optim.beta2 (was 0.95, now 0.9)``.

    Args:
        before: options by their full names; one that is missing did not exist yet and had its default.
        now: the same, with at least those that count.
        free: beginnings of names that may change.
    """
    known = flatten(RunConfig()) | dict(before)
    return [
        f"{name} (was {known.get(name)!r}, now {value!r})"
        for name, value in now.items()
        if known.get(name) != value and not name.startswith(free)
    ]


def save_toml(config: Any, path: Path) -> None:
    """Write a config as TOML that :func:`load_toml` and :func:`from_dict` read back equal.

    Options that are unset are left out, and so are tables of them alone. Names of files that are not UTF-8 are written
    as their bytes, since TOML has no escape for them.
    """
    import tomli_w

    write_atomically(path, tomli_w.dumps(_without_unset(to_dict(config))).encode("utf-8", "surrogateescape"))


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    deeper = {key: _without_unset(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in deeper.items() if value is not None and value != {}}
