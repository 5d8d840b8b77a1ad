"""DSPy: language models and modules. Skipped where it is missing: it cannot be installed beside openai 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokenprior as tp
from many_apis import ManyApis
from tokenprior.library import Library
from tokenprior.placement import conditioned

dspy: Any = pytest.importorskip("dspy")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*litellm.*"),
]


@pytest.fixture
def lm(server: ManyApis) -> Any:
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    return dspy.LM("openai/m", api_base=server.url, api_key="k", num_retries=0, cache=False)


class Twice(dspy.Module):  # type: ignore[misc]
    """A program of two predictors, the second with a model of its own."""

    def __init__(self, lm: Any = None) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict(dspy.Signature("question -> answer", "Ask again."))
        self.second.lm = lm

    def forward(self, question: str) -> Any:
        return self.second(question=self.first(question=question).answer)


def the_prior_and_nothing_else(server: ManyApis, library: Library, calls: int = 1) -> None:
    assert len(server.bodies) == 2 * calls
    prior = tp.TokenPrior.of(library)
    assert server.bodies[calls:] == [conditioned("chat", body, prior) for body in server.bodies[:calls]]


@pytest.mark.parametrize(
    "use",
    [
        lambda lm: lm("What of dogs?"),
        lambda lm: lm(messages=[{"role": "system", "content": "You help."}, {"role": "user", "content": "Dogs?"}]),
    ],
)
@pytest.mark.filterwarnings("ignore:Passing OpenAI-style message dictionaries:DeprecationWarning")
def test_a_language_model_sends_the_prior_and_else_what_it_sent_before(
    use: Callable[[Any], Any], lm: Any, server: ManyApis, library: Library
) -> None:
    wrapped = tp.wrap(lm, library)
    assert isinstance(wrapped, dspy.LM)
    plain = use(lm)
    assert use(wrapped.copy(num_retries=1)) == plain
    the_prior_and_nothing_else(server, library)


@pytest.mark.parametrize("system", ["You help.", None, ("You help.", "Be nice.")])
def test_a_request_of_its_own_kind_has_the_prior(system: Any, lm: Any, server: ManyApis, library: Library) -> None:
    from dspy.lm15 import Message, Request

    asked = Request(model=lm.model, messages=(Message.user("What of dogs?"),), system=system)
    lm(asked)
    tp.wrap(lm, library)(asked)
    tp.wrap(lm, library, rendering=tp.Rendering(relevant=1))(request=asked)
    bare, sent, chosen = server.bodies
    assert sent == conditioned("chat", bare, tp.TokenPrior.of(library))
    assert chosen == conditioned("chat", bare, tp.TokenPrior.of(library.only(["G0"])))


@pytest.mark.parametrize("make", [lambda lm: Twice(), Twice], ids=["one model", "two models"])
async def test_a_module_sends_the_prior_with_whatever_model_it_runs(
    make: Callable[[Any], Any], lm: Any, server: ManyApis, library: Library
) -> None:
    module = make(lm)
    wrapped = tp.wrap(module, library)
    with dspy.context(lm=lm):
        assert module(question="What of dogs?").answer == "fine"
        assert wrapped(question="What of dogs?").answer == "fine"
    the_prior_and_nothing_else(server, library, 2)
    assert module.second.lm is (lm if module.second.lm else None)
    server.asked.clear()
    with dspy.context(lm=lm):
        await dspy.asyncify(wrapped)(question="What of cats?")
        await tp.wrap(dspy.Predict("question -> answer"), library).acall(question="What of cows?")
    assert len(server.bodies) == 3
    assert all(body["messages"][0]["content"].endswith(tp.TokenPrior.of(library).text) for body in server.bodies)


def test_twice_is_once(lm: Any, server: ManyApis, library: Library) -> None:
    module = dspy.ChainOfThought("question -> answer")
    twice = tp.wrap(tp.wrap(module, library), library)
    assert type(twice).__qualname__ == "ChainOfThought"
    with dspy.context(lm=lm):
        module(question="What of birds?")
    with dspy.context(lm=tp.wrap(lm, library)):
        twice(question="What of birds?")
    the_prior_and_nothing_else(server, library)


def test_a_cache_does_not_mix_calls_with_and_without_the_prior(lm: Any, server: ManyApis, library: Library) -> None:
    module = dspy.Predict("question -> answer")
    with dspy.context(lm=lm.copy(cache=True)):
        for one in (module, tp.wrap(module, library)) * 2:
            one(question="What of fish?")
    the_prior_and_nothing_else(server, library)


def test_a_program_is_saved_as_what_it_was_made_of(lm: Any, library: Library, tmp_path: Path) -> None:
    module = dspy.Predict("question -> answer")
    module.lm = lm
    wrapped = tp.wrap(module, library)
    assert wrapped.dump_state() == module.dump_state()
    wrapped.save(tmp_path / "program.json")
    loaded = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json")
    assert type(loaded.lm) is dspy.LM


def test_without_a_model_dspy_says_what_it_says(library: Library) -> None:
    with pytest.raises(ValueError, match="No LM is loaded"):
        tp.wrap(dspy.Predict("question -> answer"), library)(question="What of dogs?")
