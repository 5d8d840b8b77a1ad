from __future__ import annotations

from collections.abc import Iterator

import pytest

from many_apis import ManyApis
from tokenprior.experience import Experience, Provenance
from tokenprior.library import Library


@pytest.fixture
def server() -> Iterator[ManyApis]:
    with ManyApis() as made:
        yield made


@pytest.fixture
def library() -> Library:
    lessons = {"G0": "When asked about dogs, be brief.", "G1": "When asked about cats, be kind."}
    return Library(
        experiences=tuple(
            Experience(id=name, name="", text=text, provenance=Provenance(run="r", operation="Add"))
            for name, text in lessons.items()
        )
    )
