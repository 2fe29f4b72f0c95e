"""Expressions over options: the rules of plans, and the filters of lists of runs.

    formula     2e-3 * sqrt(batch_size / 128)               [rules] of a plan
    filter      d_model >= 256 and status = finished        groundup runs --filter

Both are Python syntax trees that :func:`_value` walks; nothing is passed to ``eval``. A formula is parsed by Python. A
filter has a separate parser, because its words need no quotes and ``=`` compares.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from groundup.config.names import full_name
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError

Number = int | float


def _power(base: Number, exponent: Number) -> float:
    # With floats, 9 ** 9 ** 9 overflows at once instead of computing 370 million digits.
    found = float(base) ** exponent
    if isinstance(found, complex):
        raise ValueError(f"{base} ** {exponent} is not real")
    return found


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: _power,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt, "log": math.log, "exp": math.exp, "min": min, "max": max, "round": round,
}  # fmt: skip
_GRAMMAR = f"expected numbers, options, + - * / ** ( ) and {', '.join(_FUNCTIONS)}"

_COMPARISON = re.compile(r"""\s*([\w.\-]+)\s*(>=|<=|!=|==|=|>|<|~)\s*("[^"]*"|'[^']*'|[^\s"'<>=!~]+)\s*""")
_CONJUNCTION = re.compile(r"(and|or)\b", re.IGNORECASE)
_COMPARISONS: dict[str, ast.cmpop] = {
    "=": ast.Eq(), "==": ast.Eq(), "!=": ast.NotEq(), "~": ast.In(),
    ">=": ast.GtE(), "<=": ast.LtE(), ">": ast.Gt(), "<": ast.Lt(),
}  # fmt: skip
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.GtE: operator.ge, ast.LtE: operator.le, ast.Gt: operator.gt, ast.Lt: operator.lt,
}  # fmt: skip
_EXAMPLE = "such as 'd_model >= 256 and status = finished'"


class Formula:
    """Arithmetic over option names.

    Raises:
        ConfigError: a syntax error, something other than arithmetic, or an unknown option.
    """

    def __init__(self, text: str):
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(f"{text!r} is not a formula; {_GRAMMAR}") from None
        self.options: frozenset[str] = frozenset(self._names(self._tree))
        """Full names of the options it depends on."""

    def value(self, options: Mapping[str, Any]) -> Number:
        """Evaluate the formula.

        Raises:
            ConfigError: an option is not a number, or the result is undefined or not finite.
        """
        for name in sorted(self.options):
            if isinstance(options[name], bool) or not isinstance(options[name], int | float):
                raise ConfigError(f"{self.text!r} takes {name} = {options[name]!r}; expected a number")
        try:
            found: Number = _value(self._tree, options)
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(f"{self.text!r} has no value{self._where(options)}: {error}") from None
        if not math.isfinite(found):
            raise ConfigError(f"{self.text!r} = {found}{self._where(options)}; expected a finite number")
        return found

    def _where(self, options: Mapping[str, Any]) -> str:
        values = ", ".join(f"{name} = {options[name]!r}" for name in sorted(self.options))
        return f" where {values}" if values else ""

    def _names(self, node: ast.expr) -> list[str]:
        """Full names of the options in a node; refuses what is not arithmetic."""
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return []
            case ast.Name() | ast.Attribute():
                return [full_name(ast.unparse(node))]
            case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
                return self._names(node.operand)
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return self._names(node.left) + self._names(node.right)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if node.args:
                if name not in _FUNCTIONS:
                    raise ConfigError(f"{self.text!r}: unknown function {name}{suggestion(name, _FUNCTIONS)}")
                if len(node.args) > 1 and name not in ("min", "max"):
                    raise ConfigError(f"{self.text!r}: {name} takes one argument, and has {len(node.args)}")
                return [option for argument in node.args for option in self._names(argument)]
        raise ConfigError(f"{self.text!r}: {ast.unparse(node)!r} is not arithmetic; {_GRAMMAR}")


class Filter:
    """A test of a run's columns and options.

    A comparison has a column or option on the left, by its full name or the last part of it, and a number or a word on
    the right: ``= != < <= > >=``, and ``~`` for "contains". ``and`` binds more tightly than ``or``. A run without the
    value satisfies ``!=`` only.

    Raises:
        ConfigError: an unknown or ambiguous name, or a syntax error.
    """

    def __init__(self, text: str, names: Iterable[str]):
        self._tree = _parse_filter(text, list(names))

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return bool(_value(self._tree, row))


def _parse_filter(text: str, names: list[str]) -> ast.expr:
    alternatives: list[list[ast.expr]] = [[]]
    rest = text
    while True:
        found = _COMPARISON.match(rest)
        if found is None:
            raise ConfigError(f"--filter: expected NAME OPERATOR VALUE at {rest.strip()!r}, {_EXAMPLE}")
        alternatives[-1].append(_comparison(resolve(found[1], names), found[2], found[3]))
        rest = rest[found.end() :]
        if not rest:
            return ast.BoolOp(ast.Or(), [ast.BoolOp(ast.And(), comparisons) for comparisons in alternatives])
        joint = _CONJUNCTION.match(rest)
        if joint is None:
            raise ConfigError(f"--filter: expected 'and' or 'or' at {rest.strip()!r}, {_EXAMPLE}")
        if joint[1].lower() == "or":
            alternatives.append([])
        rest = rest[joint.end() :]


def _comparison(name: str, sign: str, value: str) -> ast.Compare:
    word = value[1:-1] if value[0] in "\"'" else value
    comparison = _COMPARISONS[sign]
    if type(comparison) in _ORDER and _number(word) is None:
        raise ConfigError(f"--filter: {name} {sign} {word}; expected a number")
    return ast.Compare(ast.Name(name), [comparison], [ast.Constant(word)])


def resolve(name: str, names: Iterable[str]) -> str:
    """The full name of a column or option given by its full name or the last part of it.

    Raises:
        ConfigError: an unknown or ambiguous name.
    """
    names, wanted = list(names), name.replace("-", "_")
    if wanted in names:
        return wanted
    endings = [full for full in names if full.rpartition(".")[2] == wanted]
    if len(endings) == 1:
        return endings[0]
    if endings:
        raise ConfigError(f"{name} may be {' or '.join(endings)}; write it in full")
    raise ConfigError(f"no run has {name!r}{suggestion(wanted, [*names, *(n.rpartition('.')[2] for n in names)])}")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Evaluate a node of a formula or a filter."""
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp():
            operand = _value(node.operand, values)
            return -operand if isinstance(node.op, ast.USub) else operand
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
        case ast.Call(func=ast.Name(id=name)):
            arguments = [_value(argument, values) for argument in node.args]
            return arguments[0] if len(arguments) == 1 and name in ("min", "max") else _FUNCTIONS[name](*arguments)
        case ast.BoolOp():
            parts = (_value(part, values) for part in node.values)
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        case ast.Compare(left=ast.Name(id=name), ops=[comparison], comparators=[ast.Constant(value=str(word))]):
            return _holds(values.get(name), comparison, word)
    return values[full_name(ast.unparse(node))]


def _holds(seen: Any, comparison: ast.cmpop, word: str) -> bool:
    """Whether a value satisfies a comparison with a word, which may be a number."""
    contains, negated = isinstance(comparison, ast.In), isinstance(comparison, ast.NotEq)
    if isinstance(seen, list):  # tags
        return negated != any(word in item if contains else word == item for item in seen)
    if seen is None:
        return negated
    if contains:
        return word.lower() in str(seen).lower()
    number, is_number = _number(word), isinstance(seen, int | float)
    if type(comparison) in _ORDER:
        return is_number and _ORDER[type(comparison)](seen, number)
    numbers = is_number and not isinstance(seen, bool) and number is not None
    return negated != (seen == number if numbers else str(seen).lower() == word.lower())


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
