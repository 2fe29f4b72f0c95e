"""Rules: the same values as Python gives its own expressions, and nothing but arithmetic."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from groundup.config import RunConfig, flatten
from groundup.config.expressions import Formula
from groundup.errors import ConfigError
from groundup.sweeps.rules import as_option, in_order

OPTIONS = flatten(RunConfig())
NAMES = {
    "batch_size": "data.batch_size",
    "optim.max_learning_rate": "optim.max_learning_rate",
    "d_model": "model.d_model",
}
FUNCTIONS = {"sqrt": math.sqrt, "log": math.log, "exp": math.exp, "min": min, "max": max, "round": round}


def formulas() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers(0, 1000), st.floats(1e-6, 1e6)).map(repr)
    leaves = st.one_of(numbers, st.sampled_from(list(NAMES)))

    def deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from("+ - * / **".split()), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
            st.tuples(inner, st.sampled_from("+ - * /".split()), inner).map(lambda p: f"{p[0]} {p[1]} {p[2]}"),
            inner.map(lambda x: f"-{x}"),
            st.tuples(st.sampled_from(["sqrt", "log", "exp", "round"]), inner).map(lambda p: f"{p[0]}({p[1]})"),
            st.tuples(st.sampled_from(["min", "max"]), st.lists(inner, min_size=2, max_size=4)).map(
                lambda p: f"{p[0]}({', '.join(p[1])})"
            ),
        )

    return st.recursive(leaves, deeper, max_leaves=12)


def by_python(text: str) -> object:
    """The value that Python gives the formula; powers of floats, as rules have them."""
    values = {full.rpartition(".")[2]: OPTIONS[full] for full in NAMES.values()}
    plain = text.replace("optim.max_learning_rate", "max_learning_rate")
    return eval(plain, {"__builtins__": {}}, values | FUNCTIONS)


@given(text=formulas())
def test_a_formula_has_the_value_that_python_gives_it(text: str):
    assume("**" not in text)
    compare(text)


@given(base=st.floats(0.01, 100), exponent=st.integers(-8, 8), factor=st.integers(1, 9))
def test_powers_bind_as_in_python(base: float, exponent: int, factor: int):
    for text in (
        f"{factor} * {base} ** {exponent}",
        f"-{base} ** 2",
        f"{base} ** 2 ** 0.5",
        f"batch_size ** -{factor}",
    ):
        compare(text)


@given(text=formulas())
def test_a_formula_has_a_finite_value_or_is_refused(text: str):
    try:
        value = Formula(text).value(OPTIONS)
    except ConfigError:
        return
    assert math.isfinite(value)


def compare(text: str) -> None:
    try:
        expected = by_python(text)
    except (ArithmeticError, ValueError):
        expected = None
    if isinstance(expected, complex) or (expected is not None and not math.isfinite(expected)):
        expected = None
    if expected is None:
        with pytest.raises(ConfigError):
            Formula(text).value(OPTIONS)
    else:
        assert Formula(text).value(OPTIONS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "is not arithmetic"),
        ("open('x')", "unknown function open"),
        ("sqroot(2)", "did you mean 'sqrt'"),
        ("batch_sizes * 2", "unknown option batch_sizes; did you mean 'batch_size'"),
        ("batch_size if 1 else 2", "is not arithmetic"),
        ("[1][0]", "is not arithmetic"),
        ("True + 1", "is not arithmetic"),
        ("'a' * 3", "is not arithmetic"),
        ("1 +", "is not a formula"),
        ("lambda: 1", "is not arithmetic"),
        ("sqrt(1, 2)", "sqrt takes one argument"),
        ("max(1, key=2)", "is not arithmetic"),
        ("1 // 2", "is not arithmetic"),
        ("x" * 100_000, "unknown option"),
        ("(" * 1000 + "1" + ")" * 1000, "is not a formula"),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_the_reason(text: str, said: str):
    with pytest.raises(ConfigError, match=said.replace("'", ".")):
        Formula(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / (batch_size - 32)", r"has no value where data.batch_size = 32: division by zero"),
        ("sqrt(-1)", "has no value: "),
        ("9 ** 9 ** 9", "has no value"),
        ("1e300 * 1e300", "expected a finite number"),
        ("sqrt((-8) ** 0.5)", "is not real"),
        ("name * 2", r"takes name = 'run'; expected a number"),
        ("compile + 1", r"takes train.compile = False; expected a number"),
    ],
)
def test_a_formula_without_a_value_says_where(text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        Formula(text).value(OPTIONS)


@given(st.permutations(range(6)), st.data())
def test_each_option_comes_after_those_it_depends_on(order: list[int], data: st.DataObject):
    names = [n for n, v in OPTIONS.items() if isinstance(v, int | float) and not isinstance(v, bool)][:6]
    rules = {}
    for place, i in enumerate(order):
        earlier = [names[j] for j in order[:place]]
        used = data.draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        rules[names[i]] = Formula(" + ".join([*used, "1"]))
    found = in_order(rules)
    assert sorted(found) == sorted(rules)
    for place, name in enumerate(found):
        assert rules[name].options <= set(found[:place])


def test_a_circle_of_rules_is_shown():
    rules = {"model.d_model": Formula("num_heads * 64"), "model.num_heads": Formula("d_model / 64")}
    with pytest.raises(ConfigError, match=r"circle: model\.(\w+) -> model\.\w+ -> model\.\1"):
        in_order(rules)
    with pytest.raises(ConfigError, match="circle"):
        in_order({"model.d_model": Formula("d_model + 1")})


def test_a_rule_gives_an_option_a_value_of_its_type():
    assert as_option("data.batch_size", 64.0, 32) == 64
    assert type(as_option("data.batch_size", 64.0, 32)) is int
    assert type(as_option("optim.eps", 1, 1e-8)) is float
    with pytest.raises(ConfigError, match=r"data\.batch_size = 45\.25; expected a whole number, so put round"):
        as_option("data.batch_size", 45.25, 32)
    with pytest.raises(ConfigError, match="a rule gives numbers"):
        as_option("model.norm", 1.0, "pre")
