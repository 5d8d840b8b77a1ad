"""Session: a config made live. It opens the store, the run, the models, the agent and the verifier, and closes them.

This is what the command line and most programs use; whoever has an agent or a model of their own calls the verbs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokenprior.advantage import LeakGuard
from tokenprior.agent_settings import FunctionSettings, ProgramSettings
from tokenprior.agents.logged import LoggedAgent
from tokenprior.audit import Audit
from tokenprior.audit import audit as audit_library
from tokenprior.comparison import Comparison
from tokenprior.config import Config, EvaluateConfig, LearnConfig
from tokenprior.controls import placebo, shuffled
from tokenprior.errors import BudgetReached, ConfigError
from tokenprior.evaluate import compare as compare_arms
from tokenprior.learn import LearnResult, require_tasks
from tokenprior.learn import learn as learn_library
from tokenprior.library import Library
from tokenprior.live import Live, code_of_agent, tools_of
from tokenprior.load import load_tasks
from tokenprior.logs import LoggedTask, load_logs
from tokenprior.models.batch_carrier import AtProvider
from tokenprior.models.budget import Budget
from tokenprior.models.connect import Connections, check_name
from tokenprior.models.prices import priced
from tokenprior.progress import OnProgress, Progress, Tracker
from tokenprior.prove import Gate
from tokenprior.rollout import Usage
from tokenprior.store import RunStore, Store, open_store
from tokenprior.task import Split, Task, TaskSet, content_hash
from tokenprior.tips import tips
from tokenprior.tools import Tool
from tokenprior.verifiers import asks_a_model, make_verifier
from tokenprior.verifiers.base import Verifier
from tokenprior.verifiers.recorded import Recorded

OnPull = Callable[[str, int, int], None]

BASELINE = "no prior"
Control = Literal["placebo", "shuffled", "tips"]


def read_logs(config: Config) -> tuple[LoggedTask, ...]:
    """The attempts that a config finds in logs; none if it names none.

    Raises:
        DataError: a log cannot be read.
    """
    logs = config.logs
    return load_logs(logs.path, form=logs.form, fields=logs.fields) if logs else ()


def read_tasks(config: Config, logged: Sequence[LoggedTask] | None = None) -> Split:
    """The tasks of a config, parted. Where there are logs, the practice tasks are theirs.

    Args:
        logged: what `read_logs` gives, if it was called.

    Raises:
        DataError, ConfigError: a file cannot be read, or has too few rows for the split.
    """
    split = Split(practice=TaskSet(()), gate=TaskSet(()), held_out=TaskSet(()))
    if settings := config.tasks:
        fields = {str(key): value for key, value in settings.fields.items()}
        tasks = load_tasks(settings.path, fields=fields)
        split = replace(split, practice=tasks)
        if settings.split:
            split = tasks.split(**settings.split.model_dump())
        if settings.held_out:
            if settings.held_out_fields is not None:
                fields = {str(key): value for key, value in settings.held_out_fields.items()}
            split = replace(split, held_out=load_tasks(settings.held_out, fields=fields))
            _apart(split.held_out, (*split.practice, *split.gate), f"{settings.held_out}", "practice or gate tasks")
    if config.logs:
        logged = read_logs(config) if logged is None else logged
        split = replace(split, practice=TaskSet(one.task for one in logged))
        _apart((*split.gate, *split.held_out), split.practice, "tasks", "in the logs")
    return split


def _apart(tasks: Iterable[Task], others: Iterable[Task], where: str, are: str) -> None:
    if shared := {task.text_key for task in tasks} & {task.text_key for task in others}:
        raise ConfigError(f"{where}: {len(shared)} of its questions are {are} too: take them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A live config.

    Attributes:
        split: practice, gate and held-out tasks.
        logged: attempts of the past, to learn from.
        tools: of the agent.
        learning_run: the id under which this config learns: its name and a hash of all that can change the outcome.
    """

    config: Config
    split: Split
    logged: tuple[LoggedTask, ...]
    tools: tuple[Tool, ...]
    store: Store
    on_progress: OnProgress | None
    on_pull: OnPull | None

    @property
    def learning_run(self) -> str:
        return self.run_of(None)

    def run_of(self, start: Library | None) -> str:
        """The id of a learning run of this config that begins with a library."""
        return self._run("learn", {"start": content_hash(start.to_json())} if start else {})

    def _run(self, kind: str, extra: Mapping[str, Any]) -> str:
        config = self.config
        verifier = self._judge_free_verifier()
        described: dict[str, Any] = {
            "kind": kind,
            "agent": config.agent.model_dump(
                mode="json", exclude={"timeout_s": True, "concurrency": True, "limits": {"seconds"}}
            ),
            "endpoint": config.endpoint.model_dump(mode="json", include={"context", "json_schema"}),
            "verifier": verifier.fingerprint
            if verifier
            else config.verifier | {"judge": config.judge or config.learning_model},
            **extra,
        }
        if code := code_of_agent(config, self.tools):
            described["code"] = code
        if self.logged:
            described["logs"] = LoggedAgent(self.logged).fingerprint
            if verifier is None and config.verifier["kind"] == "recorded":
                described["rewards"] = Recorded(self.logged).fingerprint
        if kind == "learn":
            learn = self._learning
            ungated = {"gate_k", "gate_error", "gate_parts"} if learn.gate == "none" else set()
            described |= {
                "tasks": self.split.practice.fingerprint,
                "learner": config.learning_model,
                "learn": learn.model_dump(mode="json", exclude={"learning_timeout_s", *ungated}),
            }
            if learn.gate != "none":
                described["gate"] = [self.split.gate.fingerprint, config.evaluate.temperature]
        elif kind == "compare":
            described |= {
                "tasks": self.split.held_out.fingerprint,
                "evaluate": self._evaluation.model_dump(mode="json"),
            }
        return f"{config.name}-{'' if kind == 'learn' else kind + '-'}{content_hash(described)[:8]}"

    @property
    def _learning(self) -> LearnConfig:
        """Attempts of the past saw no library, and a second look at them shows nothing new unless it is asked for."""
        config = self.config.learn.resolved()
        if self.config.logs is None:
            return config
        once = {} if "epochs" in config.model_fields_set else {"epochs": 1}
        return config.model_copy(update={"inclusion_pairs": 0, **once})

    @property
    def _evaluation(self) -> EvaluateConfig:
        """Evaluation renders the prior as learning did."""
        return self.config.evaluate.model_copy(update={"prior": self.config.learn.prior})

    def _judge_free_verifier(self) -> Verifier | None:
        """The verifier, unless it needs a model, which is connected only within a run."""
        return (
            None
            if asks_a_model(self.config.verifier)
            else make_verifier(
                self.config.verifier, tasks=self.split.every, folder=self.config.folder, logged=self.logged
            )
        )

    async def learn(self, *, start: Library | None = None) -> LearnResult:
        """Learn from the practice tasks, or go on with it. See `learn.learn`."""
        config = self._learning
        require_tasks(self.split.practice, self.split.gate, config)  # before a model is fetched for nothing
        async with self._open(self.run_of(start), "learn") as live:
            gate = None
            if config.gate != "none":
                agent = await live.agent(self._evaluation.temperature, config.seed)
                gate = Gate(tasks=self.split.gate, agent=agent)
            result = await learn_library(
                self.split.practice,
                agent=live.logged or await live.agent(config.temperature, config.seed),
                verifier=live.verifier,
                model=live.learner,
                record=live.record,
                config=config,
                gate=gate,
                start=start,
                tracker=live.tracker,
            )
            live.stopped = result.stopped
            return result

    async def audit(self, library: Library, *, rollouts: int) -> Audit:
        """Measure what each lesson does, or go on with it: on the gate tasks, of which no lesson was drawn, or on the
        practice tasks if there are none. See `audit.audit`."""
        tasks = self.split.gate or self.split.practice
        config = self.config.learn.resolved()
        described = {
            "library": library.version,
            "tasks": tasks.fingerprint,
            "temperature": self._evaluation.temperature,
            "prior": config.prior.model_dump(mode="json"),
            "seed": config.seed,
        }
        run = self._run("audit", described)
        async with self._open(run, "audit") as live:
            return await audit_library(
                tasks,
                library,
                agent=await live.agent(self._evaluation.temperature, config.seed),
                verifier=live.verifier,
                record=live.record,
                config=config,
                rollouts=rollouts,
                tracker=live.tracker,
            )

    async def compare(self, arms: Mapping[str, Library], *, controls: Sequence[Control] = ()) -> Comparison:
        """Compare libraries on the held-out tasks, or go on with it; "no prior" is always the first arm.

        Args:
            arms: libraries by name.
            controls: more arms, each of its own name, made in the likeness of the first library: `placebo` and
                `shuffled` have as much text and no knowledge, `tips` the learning model writes with no rollouts.
        """
        config = self._evaluation
        every, run = self._planned(arms, controls)
        async with self._open(run, "compare") as live:
            if "tips" in controls:
                every["tips"] = await self._tips(len(next(iter(arms.values()))), live)
            return await compare_arms(
                self.split.held_out,
                every,
                agent=await live.agent(config.temperature, config.seed),
                verifier=live.verifier,
                record=live.record,
                controls=controls,
                config=config,
                tracker=live.tracker,
            )

    async def check_compare(self, arms: Mapping[str, Library], *, controls: Sequence[Control] = ()) -> None:
        """Raise what `compare` would raise before its first call. Nothing is asked, fetched or written down.

        Raises:
            ConfigError: a setting or an arm is wrong, or a model has no such name, no key or, under a budget of money,
                no price.
        """
        self._planned(arms, controls)
        config = self.config
        called = {config.agent.model}
        called |= {config.judge or config.learning_model} if asks_a_model(config.verifier) else set()
        called |= {config.learning_model} if "tips" in controls else set()
        for name in filter(None, {*called, config.learning_model}):
            by_program = name == config.agent.model and isinstance(config.agent, ProgramSettings | FunctionSettings)
            await check_name(name, config.endpoint, by_program=by_program)
            if name in called:
                prices = {model: settings.price for model, settings in config.prices.items()}
                await Budget(config.budget.limits).reserve(priced(Usage(calls=1), name, prices))

    def _planned(self, arms: Mapping[str, Library], controls: Sequence[Control]) -> tuple[dict[str, Library], str]:
        """All arms of a comparison, that of tips still empty, and the id of its run."""
        if not self.split.held_out:
            raise ConfigError("no held-out tasks: give tasks.split or tasks.held_out in the config")
        if BASELINE in arms:
            raise ConfigError(f"an arm may not be called {BASELINE!r}: that one is always there")
        if twice := [control for control in controls if control in arms or controls.count(control) > 1]:
            raise ConfigError(f"there is an arm {twice[0]!r} already: a control is an arm of that name")
        if controls and not arms:
            raise ConfigError("a control is made in the likeness of a library: name an arm")
        if "placebo" in controls and self.config.learn.prior.relevant is not None:
            raise ConfigError("a placebo concerns no task: with learn.prior.relevant none of it would be chosen")
        seed = self._evaluation.seed
        every = {BASELINE: Library(), **arms}
        for control in controls:
            first = next(iter(arms.values()))
            match control:
                case "placebo":
                    every[control] = placebo(first, seed=seed)
                case "shuffled":
                    every[control] = shuffled(first, seed=seed)
                case "tips":
                    every[control] = Library()  # keeps the place; they are written once the models are there
        described: dict[str, Any] = {"arms": {arm: library.version for arm, library in every.items()}}
        if "tips" in controls:
            described["tips"] = [len(first), self._tips_made_of]
        return every, self._run("compare", described)

    @property
    def _tips_made_of(self) -> dict[str, Any]:
        """What the tips depend on beside the agent."""
        settings = {
            "attempt_chars", "ground_truth", "learning_temperature", "learning_max_tokens", "library", "private",
            "seed",
        }  # fmt: skip
        return {
            "tasks": self.split.practice.fingerprint,
            "learner": self.config.learning_model,
            "learn": self.config.learn.resolved().model_dump(mode="json", include=settings),
        }

    async def _tips(self, count: int, live: Live) -> Library:
        live.tracker.phase("tips")
        config, practice = self.config.learn.resolved(), self.split.practice
        return await tips(
            practice,
            instructions=self.config.agent.instructions,
            count=count,
            model=live.learner,
            config=config,
            guard=LeakGuard(practice if config.ground_truth else [replace(task, answer=None) for task in practice]),
        )

    @property
    def _models(self) -> set[str]:
        """The names of all models that a run may call."""
        config = self.config
        return {name for name in (config.agent.model, config.learning_model, config.judge) if name}

    def _telling(self, record: RunStore) -> OnProgress:
        def tell(progress: Progress) -> None:
            record.note(progress)
            if self.on_progress:
                self.on_progress(progress)

        return tell

    @asynccontextmanager
    async def _open(self, run: str, kind: str) -> AsyncIterator[Live]:
        config = self.config
        described = config.model_dump(mode="json")
        if config.source:
            described["source"] = config.source.model_dump(mode="json")
        record = self.store.open_run(run, name=config.name, kind=kind, config=described)
        live: Live | None = None
        state, detail = "failed", "ended by an unexpected error"
        try:
            budget = Budget(config.budget.limits, spent=record.spent())
            at_provider = AtProvider()
            connections = Connections(
                config.endpoint,
                ledger=record,
                budget=budget,
                prices={name: settings.price for name, settings in config.prices.items()},
                policy=config.endpoint.policy,
                on_pull=self.on_pull,
                batches=record.batches,
                at_provider=at_provider,
            )
            async with connections, Live(config, record, connections, self.split, self.logged, self.tools) as live:
                live.tracker = Tracker(self._telling(record), lambda: budget.spent, at_provider)
                at_provider.tell = live.tracker.change
                await connections.take_up(self._models)
                budget.spent = record.spent()
                yield live
            state, detail = ("stopped", live.stopped) if live.stopped else ("done", "")
        except BudgetReached as reached:
            state, detail = "stopped", str(reached)
            raise
        except Exception as error:
            state, detail = "failed", str(error)
            raise
        except BaseException:
            state, detail = "stopped", "interrupted"
            raise
        finally:
            record.close(state, detail)


@asynccontextmanager
async def session(
    config: Config,
    *,
    logged: Sequence[LoggedTask] | None = None,
    on_progress: OnProgress | None = None,
    on_pull: OnPull | None = None,
) -> AsyncIterator[Session]:
    """Open a config.

    Args:
        logged: attempts to practise on, in place of all that its logs hold.

    Raises:
        DataError, ConfigError: the tasks or a setting are wrong, or a tool cannot be had.
        StoreError: the store cannot be opened.
    """
    logged = read_logs(config) if logged is None else tuple(logged)
    split = read_tasks(config, logged)
    tools = await tools_of(config)
    with open_store(config.store) as store:
        yield Session(
            config=config,
            split=split,
            logged=logged,
            tools=tools,
            store=store,
            on_progress=on_progress,
            on_pull=on_pull,
        )
