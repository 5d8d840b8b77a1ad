"""Numerals: the numbers that stand in a text, as exact fractions, with what is written around them.

What is read: `1,234.5`, `$-3`, `-$3`, `6%`, `3/4`, `1 3/4`, `½`, `\\frac{3}{4}`, `1.5e-3`, `2 x 10^5`, and a minus
sign in any of its shapes. What is no number: dates, times, versions. What stands as a list without spaces (`1,2`) is
kept as one item without a value, so it is taken neither for 12 nor for its last part; a decimal comma reads as such
a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# One character for one, so that places in the changed text are places in the text itself.
_SHAPES = str.maketrans(
    {"\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u2013": "-", "\u2044": "/", "\u2215": "/", "\uff05": "%"}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_CURRENCY = r"(?:\\?\$|[€£¥₹]|(?:USD|EUR|GBP|INR|Rs\.?)[ ]?)"
_GROUPED = (
    r"[0-9]{1,3}(?:(?P<separator>,|_|'|\u00a0|\u2009|\u202f|\{,\}|\\,)[0-9]{3})(?:(?P=separator)[0-9]{3})*(?![0-9])"
)
_PLAIN = r"[0-9]+"
_EXPONENT = (
    r"[eE](?P<e>[+-]?[0-9]{1,3})(?![0-9.])"
    r"|[ ]?(?:×|x|\*|\\times|\\cdot)[ ]?10(?:\^|\*\*)(?:\{(?P<power>[+-]?[0-9]{1,3})\}|(?P<power_bare>[+-]?[0-9]{1,3}))"
)
_NUMERAL = re.compile(
    r"""
    (?<![0-9])(?P<other>
        [0-9]{4}([-/.])[0-9]{1,2}\2[0-9]{1,2}(?![0-9])
      | [0-9]{1,2}([-/.])[0-9]{1,2}\3(?:[0-9]{4}|[0-9]{2}(?<=/[0-9]{2}))(?![0-9])
      | [0-9]+(?:\.[0-9]+){2,}
      | [0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?![0-9])
    )
    |
    (?<![A-Za-z0-9_])(?<![0-9]\.)
    (?P<sign>(?<![\w)\]}.%])[-+](?=[0-9.$€£¥₹\\½⅓⅔¼¾⅕⅛⅜⅝]|USD|EUR|GBP|INR|Rs))?
    (?P<currency>"""
    + _CURRENCY
    + r""")?(?P<inner>(?<=[$€£¥₹])[-+])?
    (?P<number>
        (?:(?P<tex_whole>[0-9]+)?\\[dt]?frac\{(?P<tex_top>-?[0-9]+)\}\{(?P<tex_bottom>[0-9]+)\})
      | (?:(?P<vulgar_whole>[0-9]+)?[ ]?(?P<vulgar>[½⅓⅔¼¾⅕⅛⅜⅝]))
      | (?:(?P<mixed>[0-9]+)[ ])?(?P<top>[0-9]+(?:\.[0-9]+)?)/(?P<bottom>[0-9]+(?:\.[0-9]+)?)(?![0-9/])
      | (?P<list>[0-9]+(?:\.[0-9]+)?(?:,[0-9]+(?:\.[0-9]+)?)+)
      | (?P<whole>"""
    + _GROUPED
    + "|"
    + _PLAIN
    + r""")(?P<decimals>\.[0-9]+)?(?P<exponent>"""
    + _EXPONENT
    + r""")?
      | (?P<bare>(?<![0-9.])\.[0-9]+)
    )
    (?P<percent>[ ]?(?:\\?%|percent\b|per[ ]cent\b))?
    (?:[ ]?(?P<unit>(?!and\b|or\b|is\b|x\b|to\b|of\b|in\b)[A-Za-zµ°][A-Za-zµ°²³]*(?:/[A-Za-z]+)?))?
    """,
    re.VERBOSE,
)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
MAX_DIGITS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeral:
    """One number as it stands in a text.

    Attributes:
        text: the numeral with its sign and percent sign, without currency and unit.
        value: exact, percent sign not applied; `None` for a list such as `1,2`.
        is_percent: whether a percent sign or word follows.
        unit: the currency before it or the word after it; empty if there is neither.
        start: where it begins in the text.
        end: where it ends, the unit left out.
    """

    text: str
    value: Fraction | None
    is_percent: bool
    unit: str
    start: int
    end: int


def numerals(text: str) -> list[Numeral]:
    """All numbers of a text in their order. Never raises; numerals above 400 digits are left out."""
    plain = text.translate(_SHAPES)
    found: list[Numeral] = []
    at = 0
    while match := _NUMERAL.search(plain, at):
        at = max(match.end("number") if match["number"] else match.end(), match.start() + 1)
        if match["other"] or match.end("number") - match.start("number") > MAX_DIGITS:
            continue
        negative = "-" in ((match["sign"] or "") + (match["inner"] or ""))
        if match["list"] and not _THOUSANDS.fullmatch(match["list"]):
            value: Fraction | None = None
        else:
            try:
                value = _value(match)
            except (ValueError, ZeroDivisionError):
                continue
        end = match.end("percent") if match["percent"] else match.end("number")
        at = max(at, end)
        found.append(
            Numeral(
                text=("-" if negative else "") + plain[match.start("number") : end],
                value=-value if negative and value is not None else value,
                is_percent=match["percent"] is not None,
                unit=(match["currency"] or match["unit"] or "").strip().lstrip("\\"),
                start=match.start(),
                end=end,
            )
        )
    return found


def read_number(text: str) -> Numeral | None:
    """The number of a text that holds one number and, but for a unit and punctuation, nothing else."""
    found = numerals(text)
    if len(found) != 1 or found[0].value is None:
        return None
    rest = text[: found[0].start] + text[found[0].end :]
    unit = found[0].unit
    rest = rest.replace(unit, "", 1) if unit else rest
    return found[0] if not any(char.isalnum() or char in "+*/^=<>-" for char in rest) else None


def _value(match: re.Match[str]) -> Fraction:
    if match["tex_top"]:
        return _mixed(match["tex_whole"], Fraction(int(match["tex_top"]), int(match["tex_bottom"])))
    if match["vulgar"]:
        return _mixed(match["vulgar_whole"], Fraction(_VULGAR[match["vulgar"]]))
    if match["top"]:
        return _mixed(match["mixed"], Fraction(match["top"]) / Fraction(match["bottom"]))
    if match["bare"]:
        return Fraction("0" + match["bare"])
    if match["list"]:
        return Fraction(match["list"].replace(",", ""))
    digits = re.sub(r"[^0-9]", "", match["whole"]) + (match["decimals"] or "")
    power = match["e"] or match["power"] or match["power_bare"] or "0"
    return Fraction(digits) * Fraction(10) ** int(power)


def _mixed(whole: str | None, part: Fraction) -> Fraction:
    return int(whole or 0) + part
