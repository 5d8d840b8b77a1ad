"""DSPy: a language model becomes a copy that puts the prior into its messages; a module, one that calls such models.

The prior goes where learning put it, to the end of the system message that DSPy's adapter writes; in the instructions
of a signature it would stand elsewhere, with other white space. DSPy has no hook there that sees a request before its
cache and may change it, so the copy is of a subclass of the model's own class, made here, which overrides what a model
is called by, `__call__` and `acall`. Its state is saved as that of the model it was made of: wrap it again when it was
loaded.

A wrapped module is a deep copy that has its own models replaced, and runs with the model of `dspy.settings` replaced.
What is not covered: a model that the code of a module brings along.
"""

from __future__ import annotations

import dataclasses
import warnings
from importlib import import_module
from typing import Any

from tokenprior.wrappers.base import Learned, recast

# DSPy 3.4 deprecates messages given as dictionaries, but for the very list that its adapter made, which is theirs.
_OURS = __name__.replace(".", r"\.")


def wrap(thing: Any, learned: Learned) -> Any:
    """A copy of the language model or module whose calls bear the prior."""
    dspy: Any = import_module("dspy")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=_OURS)
    return _model(thing, learned) if isinstance(thing, dspy.BaseLM) else _module(thing, learned, dspy)


def _model(lm: Any, learned: Learned) -> Any:
    kind = type(lm)

    def call(self: Any, prompt: Any = None, *, messages: Any = None, **settings: Any) -> Any:
        return kind.__call__(self, **_asked(prompt, messages, settings, learned))

    async def acall(self: Any, prompt: Any = None, *, messages: Any = None, **settings: Any) -> Any:
        return await kind.acall(self, **_asked(prompt, messages, settings, learned))

    return recast(lm.copy(), __call__=call, acall=acall)


def _asked(prompt: Any, messages: Any, settings: dict[str, Any], learned: Learned) -> dict[str, Any]:
    """What the model is called with: a prompt and messages as messages, a `dspy.lm15.Request` as one."""
    request = settings.get("request", prompt)
    if hasattr(request, "system"):
        return {**settings, "request": _request(request, learned)}
    said = messages or [{"role": "user", "content": prompt}]
    return {**settings, "prompt": prompt, "messages": learned.passed("chat", {"messages": list(said)})["messages"]}


def _request(request: Any, learned: Learned) -> Any:
    said = [one.text for one in request.messages if one.role == "user"]
    question = next((text for text in reversed(said) if text), None)
    given = request.system
    if given is None or isinstance(given, str):
        asked = learned.conditioned("messages", {"system": given}, question=question)
        return dataclasses.replace(request, system=asked["system"])
    # DSPy joins parts with a line break, so the prior has to be in one and not beside it.
    place = max((n for n, part in enumerate(given) if hasattr(part, "text")), default=None)
    if place is None:
        return dataclasses.replace(request, system=(*given, learned.prior(question).text))
    (text,) = learned.systems([given[place].text], question)
    part = dataclasses.replace(given[place], text=text)
    return dataclasses.replace(request, system=(*given[:place], part, *given[place + 1 :]))


def _module(module: Any, learned: Learned, dspy: Any) -> Any:
    kind = type(module)

    def call(self: Any, *args: Any, **settings: Any) -> Any:
        with _around(dspy, learned):
            return kind.__call__(self, *args, **settings)

    async def acall(self: Any, *args: Any, **settings: Any) -> Any:
        with _around(dspy, learned):
            return await kind.acall(self, *args, **settings)

    made = module.deepcopy()
    for _, predictor in made.named_predictors():
        if predictor.lm is not None:
            predictor.lm = _model(predictor.lm, learned)
    return recast(made, __call__=call, acall=acall)


def _around(dspy: Any, learned: Learned) -> Any:
    """A context in which the model of the settings is the wrapped one."""
    lm = dspy.settings.lm
    return dspy.context(lm=_model(lm, learned) if isinstance(lm, dspy.BaseLM) else lm)
