"""Private: keys and personal data in words that are about to be kept, exported or served.

Covered, in any language: keys and tokens of the common providers, JSON web tokens, private keys, passwords in addresses
and in assignments (`password=...`, `api_key: ...`), e-mail addresses, phone numbers in the international or the
American form or behind the word "phone" or the like, payment cards (by their check digit), IBANs (by theirs), public
IP addresses, and national ids of four countries that carry check digits (Brazil, China, France, Spain).

Not covered: names of persons, postal addresses, dates of birth, ids without a check digit such as American social
security numbers, whatever is spelled out, spaced out or encoded, and digits of other scripts. Left alone on purpose:
addresses of `example.com` and the like, numbers kept free for fiction (555-0100 to 555-0199), `git@host`, and
placeholders such as `YOUR_KEY`. A net, not a wall: what is kept is short, readable and listed; read it.

The time taken grows with the length of a text and no faster: no pattern looks further than so many characters, or it
starts where no character that it repeats stands before it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenprior.redact import KEYS, URL_USER, URL_VALUE

PrivatePolicy = Literal["refuse", "mask", "keep"]  # what becomes of words with private data in them


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One piece of private data in a text.

    Attributes:
        kind: what it is, in words for a user, such as `e-mail address`.
        start, end: where it stands, as a slice.
    """

    kind: str
    start: int
    end: int


def find_private(text: str) -> tuple[Finding, ...]:
    """What is private in a text, in its order. What overlaps is one finding, of the kind that begins first."""
    found = sorted(_each(text), key=lambda finding: (finding.start, -finding.end))
    apart: list[Finding] = []
    for finding in found:
        if apart and finding.start < apart[-1].end:
            last = apart.pop()
            finding = Finding(kind=last.kind, start=last.start, end=max(last.end, finding.end))
        apart.append(finding)
    return tuple(apart)


def masked(text: str) -> str:
    """The text with each finding replaced by its kind in brackets, such as `[e-mail address]`."""
    parts: list[str] = []
    at = 0
    for finding in find_private(text):
        parts += [text[at : finding.start], f"[{finding.kind}]"]
        at = finding.end
    return "".join([*parts, text[at:]])


def refusal(text: str, policy: PrivatePolicy) -> str | None:
    """Why a policy does not let a text be kept, or `None`. The reason names the kinds and repeats nothing."""
    found = find_private(text) if policy == "refuse" else ()
    return f"holds private data ({named(found)})" if found else None


def named(findings: Sequence[Finding]) -> str:
    """The kinds that were found, for a message: `API key, e-mail address`. What was found is never repeated."""
    return ", ".join(dict.fromkeys(finding.kind for finding in findings))


def _each(text: str) -> Iterator[Finding]:
    for kind, pattern in KEYS.items():
        for match in pattern.finditer(text):
            if kind == "private key" or _has_key(match[0]):
                yield _finding(kind, match)
    for match in URL_USER.finditer(text):
        _, colon, password = match[0].partition(":")
        if colon and not _is_placeholder(password):
            yield _finding("password", match)
    for match in URL_VALUE.finditer(text):
        value = match[0].partition("=")[2]
        if _is_secret(value):
            yield Finding(kind="API key", start=match.end() - len(value), end=match.end())
    for match in _ASSIGNED.finditer(text):
        kind = "password" if match["name"].lower().startswith(("pass", "pwd")) else "API key"
        if match["quoted"] and not _is_placeholder(match["quoted"]):
            yield _finding(kind, match, "quoted")
        elif match["bare"] and _is_secret(match["bare"]):
            yield _finding(kind, match, "bare")
    for match in _EMAIL.finditer(text):
        if match["user"].lower() != "git" and not _RESERVED.search(match["host"].lower()):
            yield _finding("e-mail address", match)
    for kind, pattern, is_one in _NUMBERS:
        for match in pattern.finditer(text):
            if is_one(match["number"]):
                yield _finding(kind, match, "number")


def _finding(kind: str, match: re.Match[str], group: str | int = 0) -> Finding:
    # The end of a sentence is no part of it.
    return Finding(kind=kind, start=match.start(group), end=match.start(group) + len(match[group].rstrip(".")))


# `sk-learn-1.4.2` and "Bearer authentication" are no keys: those hold a long run of letters and digits.
_RUN = re.compile(r"[A-Za-z0-9]{10,}")


def _has_key(text: str) -> bool:
    return not text.endswith("EXAMPLE") and any(_mixes(run) for run in _RUN.findall(text))


def _mixes(text: str) -> bool:
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)


# `{"password": "..."}`, `api_key=...`, "the password is ..."
_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9])(?P<name>pass(?:word|wd|phrase|code)|pwd"
    r"|(?:api|access|account|secret|private|encryption)[_ -]?key|(?:client|app)[_ -]?secret"
    r"|(?:auth|access|refresh|bearer)[_ -]?token)[\"']?\s{0,3}(?::=|=>|[:=]|\bis\b)\s{0,3}"
    r"(?:[\"'](?P<quoted>[^\s\"']{4,200})[\"']|(?P<bare>[^\s\"'`<>{}\[\]()$,;]{6,200}+)(?![\w(\[]))",
    re.IGNORECASE,
)
_PLACEHOLDERS = frozenset({
    "key", "value", "token", "secret", "password", "passwd", "pass", "pwd", "apikey", "example", "changeme", "dummy",
    "none", "null", "true", "false", "string", "hidden", "redacted", "placeholder", "test",
})  # fmt: skip


def _is_placeholder(text: str) -> bool:
    plain = text.casefold()
    return plain in _PLACEHOLDERS or plain.startswith(
        ("your", "my_", "my-", "xxx", "...", "<", "{", "$", "%", "[", "*")
    )


def _is_secret(text: str) -> bool:
    """Whether an unquoted value can be one: a rule such as "password: required" has words there, a sum numbers."""
    return len(text) >= 6 and _mixes(text) and not _is_placeholder(text)


_EMAIL = re.compile(r"(?P<user>[\w.%+-]{1,64})@(?P<host>(?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}[^\W\d_]{2,24})")
# Source: RFC 2606 and RFC 6761, names that belong to nobody.
_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|invalid|test|example|localhost)$")


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdigit())


def _is_phone(number: str) -> bool:
    digits = _digits(number)
    fiction = re.search(r"55501[0-9]{2}$", digits)  # Source: North American Numbering Plan, numbers for fiction.
    return 7 <= len(digits) <= 15 and not fiction


# First digits and lengths of the card networks. Source: ISO/IEC 7812 and the networks' published ranges.
_CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3}){0,2}|(?:5[1-5]|2[2-7]|6[0245])[0-9]{14}|3[47][0-9]{13}|35[0-9]{14}|3[068][0-9]{12}"
)


def _is_card(number: str) -> bool:
    """By its first digits and Luhn's check digit."""
    digits = _digits(number)
    doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(digits))]
    return bool(_CARD.fullmatch(digits)) and sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0


# How long an IBAN is in each country. Source: SWIFT IBAN Registry.
_IBAN_COUNTRIES = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC",
}  # fmt: skip
_IBAN = "|".join(
    f"(?:{'|'.join(countries.split())})[0-9]{{2}}(?: ?[A-Z0-9]){{{length - 4}}}"
    for length, countries in _IBAN_COUNTRIES.items()
)


def _is_iban(number: str) -> bool:
    plain = number.replace(" ", "")
    return _remainder(plain[4:] + plain[:4]) == 1


def _remainder(text: str) -> int:
    """Of digits and letters (A is 10) read as one number, by 97. Source: ISO 7064."""
    return int("".join(str(int(char, 36)) for char in text)) % 97


def _is_public_address(number: str) -> bool:
    """Not one of a private net or a document; and `1.2.3.4` is a version or a section, `8.8.8.8` everybody's."""
    if all(len(part) == 1 for part in number.split(".")):
        return False
    try:
        address = ipaddress.ip_address(number)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_cpf(number: str) -> bool:
    """Brazil, with two check digits."""
    digits = [int(digit) for digit in _digits(number)]
    return len(set(digits)) > 1 and all(
        sum(digit * (size + 1 - at) for at, digit in enumerate(digits[:size])) * 10 % 11 % 10 == digits[size]
        for size in (9, 10)
    )


def _is_chinese_id(number: str) -> bool:
    """Source: GB 11643, check character by ISO 7064 MOD 11-2."""
    total = sum(int(digit) * pow(2, 17 - at, 11) for at, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


def _is_nir(number: str) -> bool:
    """France: the last two digits are 97 less the remainder."""
    digits = _digits(number)
    return 97 - int(digits[:13]) % 97 == int(digits[13:])


def _is_dni(number: str) -> bool:
    """Spain, for citizens and for foreigners (X, Y and Z stand for 0, 1 and 2)."""
    plain = number.upper().replace("-", "")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(plain[:8].translate(str.maketrans("XYZ", "012"))) % 23] == plain[8]


def _numbers(kind: str, is_one: Callable[[str], bool], before: str, *forms: str) -> _Numbers:
    # Looked for at every place, by a lookahead: what is none may hold the beginning of one.
    return kind, re.compile(f"{before}(?=(?P<number>{'|'.join(forms)}))", re.ASCII), is_one


_Numbers = tuple[str, re.Pattern[str], Callable[[str], bool]]
_PHONE = r"[0-9](?:[ .-]?\(?[0-9]\)?)"
_NUMBERS: tuple[_Numbers, ...] = (
    _numbers(
        "card number",
        _is_card,
        r"(?<![0-9])(?<![0-9][.,])",
        r"[0-9]{13,19}(?![0-9])",
        r"[0-9]{4}(?P<by>[ -])[0-9]{4}(?P=by)[0-9]{4}(?P=by)[0-9]{4}(?![0-9])",
        r"3[0-9]{3}(?P<gap>[ -])[0-9]{6}(?P=gap)[0-9]{5}(?![0-9])",
    ),
    _numbers("IBAN", _is_iban, r"(?<![A-Za-z0-9])(?=[A-Z]{2}[0-9])", _IBAN),
    # A plus behind a number, a bracket or a letter of its own is a sum.
    _numbers(
        "phone number",
        _is_phone,
        r"(?<![\w)\]=+*/-])(?<![0-9)\]=] )(?<!\b[A-Za-z] )",
        r"\+(?=[1-9])" + _PHONE + r"{7,14}(?![0-9])",
    ),
    _numbers(
        "phone number",
        _is_phone,
        r"(?<![\w.+-])",
        r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4}(?![\w-])",
    ),
    _numbers(
        "phone number",
        _is_phone,
        r"\b(?i:(?:tele)?phone|tel|mobile|fax)\b\.?(?i: ?(?:number|no\.?))?(?: is)?[ :=#]{1,3}",
        r"\(?" + _PHONE + r"{6,14}(?![0-9])",
    ),
    _numbers(
        "IP address",
        _is_public_address,
        r"(?<![\w.])(?<!ersion )",
        r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.?[0-9])",
        r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
    ),
    _numbers("national id", _is_cpf, r"(?<![0-9])", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![0-9])"),
    _numbers(
        "national id",
        _is_chinese_id,
        r"(?<![0-9])",
        r"[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx](?![0-9A-Za-z])",
    ),
    _numbers(
        "national id",
        _is_nir,
        r"(?<![0-9])(?<![0-9][.,])",
        r"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]) ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}(?![0-9])",
    ),
    _numbers("national id", _is_dni, r"(?<![A-Za-z0-9])", r"(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-Z](?![A-Za-z0-9])"),
)
