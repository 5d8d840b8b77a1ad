"""Forecast: what a run may take at most, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenprior.agent_settings import AgentSettings
from tokenprior.config import Config, LearnConfig
from tokenprior.library import estimate_tokens
from tokenprior.models.prices import priced
from tokenprior.rollout import Usage
from tokenprior.task import Task
from tokenprior.verifiers import asks_a_model

PROMPT_WORDS = 600  # tokens of the fixed words of a learning prompt, rounded up
TURN_TOKENS = 2_048  # of one call of a program that says nothing of its own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Upper bounds, if no call has to be repeated. `cost_usd` is `None` where a price is not known."""

    rollouts: int
    gate_rollouts: int
    learning_calls: int
    usage: Usage


def forecast(config: Config, tasks: Sequence[Task], gate_tasks: Sequence[Task] = ()) -> Forecast:
    """What learning on these tasks takes at most: every group is contrasted, every reply is as long as allowed."""
    learn = config.learn.resolved()
    agent = config.agent
    steps = learn.epochs * -(-len(tasks) // (learn.batch_size or max(1, len(tasks))))
    groups = learn.epochs * len(tasks)
    practised = groups * learn.group_plan.limit
    # The library that ships now, and in each step the candidate with two parts, or both once more.
    trials = 0 if learn.gate == "none" else 1 + steps * (3 if learn.gate_parts else 2)
    gated = trials * len(gate_tasks) * learn.gate_k
    rollouts = (0 if config.logs else practised) + gated
    summaries = practised if _summarises(agent, learn) else 0
    turns, max_tokens = _turns(agent), getattr(agent, "max_tokens", TURN_TOKENS)
    shown = min(max(1, turns) * max_tokens, learn.attempt_chars // 3)
    library = min(learn.library.max_tokens, learn.library.max_experiences * 2 * learn.library.max_words)
    question = sum(estimate_tokens(task.question) for task in (*tasks, *gate_tasks)) / max(
        1, len(tasks) + len(gate_tasks)
    )
    first = question + estimate_tokens(agent.instructions) + min(library, learn.prior.tokens or library)
    # Each turn sends again what was said before it, and what tools gave: as much as the model wrote, say.
    policy_in = rollouts * (turns * first + turns * (turns - 1) * max_tokens)
    lessons = groups * learn.lessons_per_group * 60
    lessons_a_step = (learn.batch_size or len(tasks)) * learn.lessons_per_group
    updates = steps * -(-lessons_a_step // (learn.lessons_per_update or lessons_a_step))
    learner_in = (
        summaries * (PROMPT_WORDS + question + 4 * learn.attempt_chars // 3)
        + groups * (PROMPT_WORDS + question + library + learn.group_plan.limit * shown)
        + updates * (PROMPT_WORDS + library)
        + lessons
    )
    calls = summaries + 2 * groups + 2 * updates  # a reply that cannot be used is asked for once more
    policy = Usage(calls=rollouts * turns, input_tokens=int(policy_in), output_tokens=rollouts * turns * max_tokens)
    learner = Usage(calls=calls, input_tokens=int(learner_in), output_tokens=calls * learn.learning_max_tokens)
    prices = {name: settings.price for name, settings in config.prices.items()}
    usage = priced(policy, agent.model, prices) if agent.model else Usage(cost_usd=None)
    usage += priced(learner, config.learning_model, prices)
    if asks_a_model(config.verifier):
        asked = 2 * rollouts
        calls += asked
        judging = Usage(
            calls=asked,
            input_tokens=int(asked * (PROMPT_WORDS + question + max_tokens)),
            output_tokens=asked * learn.learning_max_tokens,
        )
        usage += priced(judging, config.judge or config.learning_model, prices)
    return Forecast(rollouts=rollouts - gated, gate_rollouts=gated, learning_calls=calls, usage=usage)


def _turns(agent: AgentSettings) -> int:
    if agent.model is None:  # a function that asks whom it likes, unseen
        return 0
    return 1 if agent.kind == "chat" else agent.limits.turns


def _summarises(agent: AgentSettings, learn: LearnConfig) -> bool:
    if learn.compact is not None:
        return not learn.compact
    return agent.kind != "chat" or agent.max_tokens * 4 > learn.attempt_chars
