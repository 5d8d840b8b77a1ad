"""Regular expressions under a time limit: matched in a worker process that can be killed.

The workers are shared by all verifiers of this process, start at the first match and end with the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tokenprior.errors import ConfigError
from tokenprior.verifiers.pool import Pool

TIMEOUT_S = 2.0
_workers = Pool("tokenprior.verifiers.pattern:load_search", size=2)


def check_pattern(pattern: str, where: str) -> str:
    """The pattern itself, if it is one.

    Raises:
        ConfigError: names the setting and what is wrong with the pattern.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: {pattern!r} is not a regular expression: {error}") from error
    return pattern


async def last_match(
    pattern: str, text: str, *, ignore_case: bool = False, whole: bool = False, timeout_s: float = TIMEOUT_S
) -> tuple[str, str] | None:
    """The last match and its first group (the match again where it has none), or `None`.

    Args:
        pattern: `^` and `$` match at line ends.
        text: what is searched.
        ignore_case: whether letter case counts.
        whole: whether the pattern has to match the whole text.
        timeout_s: seconds of matching.

    Raises:
        TookTooLong: over `timeout_s`.
        JobFailed: the pattern is not valid.
    """
    found = await _workers.run(pattern, text, ignore_case, whole, timeout_s=timeout_s)
    return None if found is None else (found[0], found[1])


def load_search() -> Callable[[str, str, bool, bool], tuple[str, str] | None]:
    """For the worker: the function that searches."""
    return _search


def _search(pattern: str, text: str, ignore_case: bool, whole: bool) -> tuple[str, str] | None:
    compiled = re.compile(pattern, re.MULTILINE | (re.IGNORECASE if ignore_case else 0))
    match = compiled.fullmatch(text) if whole else None
    if not whole:
        for match in compiled.finditer(text):  # noqa: B007  (the last match is wanted)
            pass
    if match is None:
        return None
    return match[0], (match[1] or "") if compiled.groups else match[0]
