r"""Differences in meaning of a regular expression between Python's `regex` and Oniguruma, Hugging Face's engine.

`x{1,3}+` is possessive to one and a repeated repetition to the other, `$` is the end of the text or of each line, a
class in a class is a union or a bracket, and so on. Rather than to know all of it, this knows what is the same.
"""

import re
from dataclasses import dataclass, field

# Of these properties the two have different characters.
_PROPERTY = r"\\[pP]\{\^?(?!(?i:Extended_?Pictographic|ExtPict|Diacritic|Dia|Posix_?Punct)\})\w+\}"
# From \x80 on, Oniguruma takes two digits for a byte and not for a character.
_ESCAPE = r"\\x[0-7][0-9A-Fa-f] | \\u[0-9A-Fa-f]{4} | \\[nrtfvsSdD] | \\[^\w\s] | \\[ ]"
# && is an intersection to one of them, & alone a character to both.
_CLASS = rf"\[\^?(?: {_PROPERTY} | {_ESCAPE} | [^\\\[\]&] | &(?!&) )+\]"
# Letters of any case are a chapter of their own ("ß" matches (?i:ss) in one of the two); these, which most published
# patterns have, are the same.
_CONTRACTION = r"\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)"
_THE_SAME = re.compile(
    rf"""(?x:
      (?P<one> {_CONTRACTION} | {_PROPERTY} | {_ESCAPE} | {_CLASS} | [^\\^$\[\](){{}}?*+|] )
    | (?P<lookaround> \(\?(?: = | ! | <= | <! ) )
    | (?P<group> \(\?[:>] | \((?![?*]) )
    | (?P<close> \) )
    | (?P<alternative> \| )
    | (?P<optional> [?*][?+]? )
    | (?P<repeated> \+[?+]? )
    | (?P<counted> \{{(?P<count>\d+)(?: ,\d*\}}\?? | \}}(?!\?) )(?!\+) )
    )"""
)


@dataclass
class _Group:
    kind: str
    alternatives: list[int] = field(default_factory=list)
    """The least characters that each past alternative matches."""
    widths: list[int] = field(default_factory=lambda: [0])
    """The same of each part of the present one."""

    def least(self) -> int:
        return min([*self.alternatives, sum(self.widths)])


def difference(expression: str) -> str | None:
    """The part of an expression that is not known to split alike in both engines; None if all of it is.

    An expression that can match nothing is different as well: Oniguruma's user splits there.
    """
    groups = [_Group("group")]
    position = 0
    while position < len(expression):
        found = _THE_SAME.match(expression, position)
        within = groups[-1]
        if found is None:
            return expression[position:]
        position = found.end()
        match found.lastgroup:
            case "one":
                within.widths.append(1)
            case "lookaround" | "group":
                groups.append(_Group(found.lastgroup))
            case "alternative":
                within.alternatives.append(sum(within.widths))
                within.widths = [0]
            case "optional":
                within.widths[-1] = 0
            case "counted":
                within.widths[-1] *= int(found["count"])
            case "close" if len(groups) > 1:
                groups.pop()
                groups[-1].widths.append(0 if within.kind == "lookaround" else within.least())
    return None if groups[0].least() > 0 else "a match of no characters"
