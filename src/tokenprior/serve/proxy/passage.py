"""Passage: one request on its way through, with the library that it wants and the lot that it draws.

Order of events: a header or the model's name says which library, else the patterns of the config, else the first; a lot
decides whether the request is held out; the prior goes into the bytes of the body. A body that has no place for a prior
goes on as it came, for the upstream is the one to say what is wrong with it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from tokenprior.agents.seat import Refused
from tokenprior.library import estimate_tokens
from tokenprior.placement import Api, Edit, placed, user_texts
from tokenprior.serve.libraries import NONE, Libraries
from tokenprior.serve.proxy.splice import JsonBody
from tokenprior.task import content_hash

LIBRARY = "x-tokenprior-library"
UNIT = "x-tokenprior-unit"
TASK = "x-tokenprior-task"
ID = "x-tokenprior-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """How requests are held out.

    Attributes:
        share: of the units that go without a prior, 0.0 to 1.0.
        seed: of the draw. The same unit always draws the same lot; a larger share keeps those that were held out.
    """

    share: float = 0.0
    seed: int = 0

    def hashed(self, unit: str) -> str:
        """What stands for a unit; whom it means cannot be read off it."""
        return hashlib.sha256(f"{self.seed}\0{unit}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def holds_out(self, hashed: str) -> bool:
        """Whether the unit of this hash goes without a prior."""
        return int(hashed[:13], 16) < self.share * 16**13


@dataclass(slots=True, kw_only=True)
class Passage:
    """What became of a request on its way to the upstream.

    Attributes:
        id: ours, told to the client.
        api: of the request.
        came: its body as it came.
        body: what goes on.
        model: that goes on.
        library, version: that was chosen; empty if none was, or the body has no place for it.
        held_out: whether it goes without the prior of that library.
        tokens: that the prior takes, about.
        unit: the hash of what was drawn by lot; the id if it was the request itself.
        task: what the client calls its task, else a hash of what the user says first; only of what is written down.
    """

    id: str
    api: Api
    came: bytes
    body: bytes
    model: str = ""
    library: str = ""
    version: str = ""
    held_out: bool = False
    tokens: int = 0
    unit: str = ""
    task: str | None = None

    @property
    def arm(self) -> str:
        """`prior`, `held-out` or `none`."""
        return NONE if not self.library else "held-out" if self.held_out else "prior"

    @property
    def shown(self) -> str:
        """What stood before the request, as the client is told."""
        return f"{self.library}/{self.version}" if self.library and not self.held_out else NONE


def conditioned(
    api: Api, raw: bytes, headers: Mapping[str, str], libraries: Libraries, lot: Lot, *, records: bool
) -> Passage:
    """Put the prior that a request wants into it.

    Args:
        records: whether lots are drawn and tasks told apart, for those who write it down.

    Raises:
        Refused: the header names a library that is not served here.
    """
    passage = Passage(id=f"tp-{secrets.token_hex(12)}", api=api, came=raw, body=raw)
    wanted = headers.get(LIBRARY, "")
    if wanted and wanted != NONE and wanted not in libraries.by_name:
        known = ", ".join([*libraries.by_name, NONE])
        raise Refused(400, f"{LIBRARY}: no library of that name is served here; there are: {known}", "unknown_library")
    try:
        body = JsonBody.read(raw)
    except ValueError:
        return passage
    model = body.value.get("model")
    passage.model, named = libraries.split_model(model) if isinstance(model, str) else ("", "")
    edits = [Edit(path=("model",), value=passage.model, insert=False)] if named else []
    name = wanted or named
    library = libraries.named(name) if name else libraries.for_model(passage.model)
    try:
        if library is not None:
            said = user_texts(api, body.value) if records or library.rendering.relevant is not None else ()
            prior = library.prior_for(said[-1] if said else None)
            edit = placed(api, body.value, prior)
            if records:
                _draw(passage, body, headers, lot)
                passage.task = headers.get(TASK) or (content_hash(said[0]) if said else None)
            if edit is not None and not passage.held_out:
                edits.append(edit)
                passage.tokens = estimate_tokens(prior.text)
            passage.library, passage.version = library.name, prior.library_version
        if edits:
            passage.body = body.spliced(edits)
    except ValueError:  # malformed on the way to the place
        return Passage(id=passage.id, api=api, came=raw, body=raw)
    return passage


def _draw(passage: Passage, body: JsonBody, headers: Mapping[str, str], lot: Lot) -> None:
    given = headers.get(UNIT) or body.value.get("safety_identifier") or body.value.get("user")
    passage.unit = lot.hashed(given) if isinstance(given, str) else passage.id
    drawn = passage.unit if isinstance(given, str) else lot.hashed(passage.id)
    passage.held_out = lot.holds_out(drawn)
