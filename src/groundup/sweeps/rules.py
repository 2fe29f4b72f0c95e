"""Rules of a plan: options that follow from others by arithmetic, such as ``2e-3 * sqrt(batch_size / 128)``.

A rule is read by Python's parser and computed by walking its tree; nothing is ever handed to ``eval``.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from groundup.config import full_name
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError

Number = int | float


def _power(base: Number, exponent: Number) -> float:
    # Of floats: 9 ** 9 ** 9 is then an overflow at once, and not a number with 370 million digits.
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


class Rule:
    """One formula over the names of options.

    Raises:
        ConfigError: it cannot be parsed, has something else than arithmetic, or names no option.
    """

    def __init__(self, text: str):
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(f"{text!r} is no formula; {_GRAMMAR}") from None
        self.options: frozenset[str] = frozenset(self._names(self._tree))
        """Full names of the options that it takes."""

    def value(self, options: Mapping[str, Any]) -> Number:
        """Its value, where options have these.

        Raises:
            ConfigError: an option is no number, or the formula has no value there.
        """
        try:
            found = self._value(self._tree, options)
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(f"{self.text!r} has no value where {self._where(options)}: {error}") from None
        if not math.isfinite(found):
            raise ConfigError(f"{self.text!r} = {found} where {self._where(options)}; expected a finite number")
        return found

    def _where(self, options: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} = {options[name]!r}" for name in sorted(self.options)) or "it stands"

    def _names(self, node: ast.expr) -> list[str]:
        """Names of options in it, and the proof that it is made of arithmetic alone."""
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
        raise ConfigError(f"{self.text!r}: {ast.unparse(node)!r} is no arithmetic; {_GRAMMAR}")

    def _value(self, node: ast.expr, options: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.UnaryOp():
                operand = self._value(node.operand, options)
                return -operand if isinstance(node.op, ast.USub) else operand
            case ast.BinOp():
                return _OPERATORS[type(node.op)](self._value(node.left, options), self._value(node.right, options))
            case ast.Call(func=ast.Name(id=name)):
                arguments = [self._value(argument, options) for argument in node.args]
                return arguments[0] if len(arguments) == 1 and name in ("min", "max") else _FUNCTIONS[name](*arguments)
        name = full_name(ast.unparse(node))
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.text!r} takes {name} = {value!r}; expected a number")
        return value


def in_order(rules: Mapping[str, Rule], also: Mapping[str, Collection[str]] | None = None) -> list[str]:
    """The options that rules set, each after those it depends on.

    Args:
        also: further options that are computed, and what they depend on; they are in the order too.

    Raises:
        ConfigError: rules depend on each other in a circle.
    """
    needs = {name: rule.options for name, rule in rules.items()}
    computed = needs | dict(also or {})
    graph = {name: [n for n in sorted(depends) if n in computed] for name, depends in computed.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"[rules] go in a circle: {circle}; each option must follow from others") from None


def as_option(name: str, value: Number, now: Any) -> Number:
    """A rule's value as the type that its option has.

    Raises:
        ConfigError: the option counts something, and the value is not whole.
    """
    if isinstance(now, bool) or not isinstance(now, int | float):
        raise ConfigError(f"[rules] {name}: its values are like {now!r}; a rule gives numbers")
    if isinstance(now, float):
        return float(value)
    if value != int(value):
        raise ConfigError(f"[rules] {name} = {value:g}; expected a whole number, so put round(…) around the rule")
    return int(value)
