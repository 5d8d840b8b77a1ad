"""Config: what may be set, with its default, its range and its place.

One small frozen model per verb; live objects (models, agents, verifiers, the store) are arguments of the verbs, not
settings. The same models read the YAML of the command line, see `load_config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, field_validator, model_validator

from tokenprior.adaptive import GroupPlan
from tokenprior.agent_settings import AgentSettings, WorkerSettings
from tokenprior.endpoint_settings import BudgetSettings, EndpointSettings, PriceSettings
from tokenprior.errors import ConfigError
from tokenprior.experience import MAX_WORDS
from tokenprior.library import Bounds
from tokenprior.load import HUB
from tokenprior.prior import Rendering
from tokenprior.private import PrivatePolicy
from tokenprior.redact import redact
from tokenprior.settings import Count, Settings, Temperature, explain

GroupToLearnFrom = Literal["mixed", "all_fail", "all_success"]


class LibrarySettings(Settings):
    """How large a library may become."""

    max_experiences: Count = 50
    max_tokens: Count = 2_000
    max_words: Annotated[int, Field(ge=5, le=500)] = MAX_WORDS

    @property
    def bounds(self) -> Bounds:
        return Bounds(max_experiences=self.max_experiences, max_tokens=self.max_tokens, max_words=self.max_words)


class PriorSettings(Settings):
    """How much of a library stands before a task; see `Rendering`."""

    tokens: Count | None = None
    relevant: Count | None = None
    core: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _core_of_what(self) -> PriorSettings:
        if self.core and self.relevant is None:
            raise ValueError("core stands beside the relevant lessons: set relevant too")
        return self

    @property
    def rendering(self) -> Rendering:
        return Rendering(tokens=self.tokens, relevant=self.relevant, core=self.core)


class AdaptiveSettings(Settings):
    """Which attempts are made and which are spared; see `adaptive.GroupPlan`, and docs/adaptive.md on what it is worth.

    Attributes:
        first: attempts of a group that are made first, the pairs among them. The others are made only while they could
            change what the group is used for.
        most: a group whose attempts are alike goes on up to so many, if the last group of its task was mixed.
        rest_solved: for how many epochs a task rests after a group of nothing but successes, before it comes back.
        rest_failed: the same after a group of nothing but failures.
    """

    first: Count | None = None
    most: Count | None = None
    rest_solved: Annotated[int, Field(ge=0)] = 0
    rest_failed: Annotated[int, Field(ge=0)] = 0


class LearnConfig(Settings):
    """How to learn.

    Attributes:
        preset: `paper` sets what the paper used for maths (arXiv 2510.08191): 3 epochs, one batch an epoch, G = 5,
            learning temperature 0.7, attempts summarised, no gate, the whole library in every prompt. Keys that are
            given win over the preset.
        epochs: passes over the practice tasks.
        batch_size: tasks of a step; `None` is one batch an epoch.
        group_size: G, attempts for each task.
        temperature: of the agent while it learns.
        ground_truth: whether the learning model may see answers, rewards and feedback.
        learn_from: which groups are contrasted where there is ground truth.
        success_at: the reward from which an attempt counts as a success.
        contrast_threshold: the spread of rewards above which a group counts as mixed.
        compact: `True` shows attempts as they are, one call a group; `False` has each summarised first, G + 1 calls;
            `None` is compact for a group whose longest attempt is within `attempt_chars`.
        attempt_chars: the most characters shown of one attempt; what is cut is said.
        lessons_per_group: the most lessons of one contrast.
        groups_per_contrast: 1 contrasts each group on its own, as in the paper. More puts that many groups of a batch
            before the learning model at once and asks for the one rule behind them: what a small one needs.
        alike: bundle groups of equal reference answers, as for a taxonomy; only with `groups_per_contrast` above 1.
        library_in_contrast: whether the learning model sees the library while it compares attempts.
        lessons_per_update: the most lessons put into one update call; `None` puts the whole batch into one.
        learning_temperature: of the learning model.
        learning_max_tokens: the most one learning reply may take.
        learning_timeout_s: seconds one learning call may take.
        prior: how much of the library stands before a task, in learning and in use.
        inclusion_pairs: in how many pairs of the G attempts of a group one sees a part of the library and the other the
            rest, so that the effect of each lesson is known; 0 shows the whole library to all, as in the paper. Without
            ground truth there are none: rewards may not choose which lessons stay.
        adaptive: fewer attempts where they change nothing, more where they may; nothing of it by default, as in the
            paper.
        gate: what a library has to show on gate tasks before it ships. `none` ships whatever was learned, as in the
            paper; `no-harm` what did no worse than the one before; `proven` what did better beyond chance.
        gate_k: attempts at each gate task.
        gate_error: the chance, over a whole run, that `proven` ships something that helps nothing. The tests are
            one-sided, so 0.025 is what is usual at 5% on both sides.
        gate_parts: whether the changes of a candidate that does not ship are tried in two parts.
        library: the bounds of the library.
        private: what becomes of a lesson with private data in it, see `private.find_private`: `refuse` drops it and
            names the kind, `mask` puts the kind in the place of the data, `keep` does not look.
        seed: of the order of tasks and of sampling, where a model takes one.
    """

    preset: Literal["paper"] | None = None
    epochs: Count = 3
    batch_size: Count | None = None
    group_size: Count = 5
    temperature: Temperature = 0.7
    ground_truth: bool = True
    learn_from: tuple[GroupToLearnFrom, ...] = ("mixed", "all_fail")
    success_at: float = 1.0
    contrast_threshold: Annotated[float, Field(ge=0.0)] = 0.0
    compact: bool | None = None
    attempt_chars: Annotated[int, Field(ge=100)] = 2_000
    lessons_per_group: Annotated[int, Field(ge=1, le=10)] = 2
    groups_per_contrast: Count = 1
    alike: bool = False
    library_in_contrast: bool = True
    lessons_per_update: Count | None = None
    learning_temperature: Temperature = 0.3
    learning_max_tokens: Count = 4_096
    learning_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    prior: PriorSettings = PriorSettings()
    inclusion_pairs: Annotated[int, Field(ge=0)] = 1
    # These two are left out of a run's id while they are at their defaults: runs from before they were there go on.
    adaptive: Annotated[AdaptiveSettings, Field(exclude_if=lambda value: value == AdaptiveSettings())] = (
        AdaptiveSettings()
    )
    gate: Literal["none", "no-harm", "proven"] = "proven"
    gate_k: Count = 2
    gate_error: Annotated[float, Field(gt=0.0, le=0.5)] = 0.025
    gate_parts: bool = True
    library: LibrarySettings = LibrarySettings()
    private: Annotated[PrivatePolicy, Field(exclude_if=lambda policy: policy == "refuse")] = "refuse"
    seed: int = 0

    @property
    def pairs(self) -> int:
        """The pairs that there really are in a group."""
        return min(self.inclusion_pairs, self.group_size // 2) if self.ground_truth else 0

    @property
    def group_plan(self) -> GroupPlan:
        """Which attempts of a group are made, and which tasks rest.

        Raises:
            ValueError: the settings of `adaptive` do not fit the others.
        """
        return GroupPlan(
            size=self.group_size,
            pairs=self.pairs,
            **self.adaptive.model_dump(),
            learn_from=self.learn_from,
            by_rewards=self.ground_truth,
            success_at=self.success_at,
            threshold=self.contrast_threshold,
        )

    @model_validator(mode="after")
    def _adaptive_fits(self) -> LearnConfig:
        _ = self.resolved().group_plan
        return self

    def resolved(self) -> LearnConfig:
        """The settings with the preset filled in."""
        if self.preset is None:
            return self
        paper: dict[str, Any] = {"epochs": 3, "batch_size": None, "group_size": 5, "temperature": 0.7, "compact": False}
        paper |= {"inclusion_pairs": 0, "gate": "none"}
        given = {key: value for key, value in paper.items() if key not in self.model_fields_set}
        return self.model_copy(update=given | {"preset": None})


class EvaluateConfig(Settings):
    """How to evaluate.

    Attributes:
        k: attempts for each task and arm; the score is mean@k.
        temperature: of the agent; the paper evaluates at 0.3.
        success_at: the reward from which an attempt counts as a success in pass@k.
        stop_early: look after every few tasks, taken in a seeded order, and stop once it is clear for every arm whether
            it helps or hurts; see `evaluate.compare` on what that guarantees.
        reward_range: the lowest and the highest reward that the verifier gives; only `stop_early` rests on it.
        resamples: of the bootstrap over tasks.
        prior: as in `LearnConfig`; it has to be the same for learning and use, which a config file sees to.
        seed: of the resampling, of the order of tasks with `stop_early`, and of the control arms.
    """

    k: Count = 1
    temperature: Temperature = 0.3
    success_at: float = 1.0
    stop_early: bool = False
    reward_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    prior: PriorSettings = PriorSettings()
    seed: int = 0

    @field_validator("reward_range")
    @classmethod
    def _lowest_first(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("expected the lowest reward and then a higher one")
        return value


class SplitSettings(Settings):
    """How the tasks are parted; see `TaskSet.split`."""

    practice: Count
    gate: Annotated[int, Field(ge=0)] = 0
    held_out: Annotated[int, Field(ge=0)] | None = None
    seed: int = 0


class TaskSettings(Settings):
    """Where the tasks are.

    Attributes:
        path: JSONL, CSV or Parquet, relative to the config file, or `hub:NAME#SPLIT`; see `load_tasks`.
        fields: which of the file's fields stand for id, question, answer and metadata.
        held_out: a file of its own for the held-out tasks, instead of a split.
        held_out_fields: of that file, if they are not those of `path`.
        split: parts of `path`.
    """

    path: Path
    fields: dict[Literal["id", "question", "answer", "metadata", "images"], str] = Field(default_factory=dict)
    held_out: Path | None = None
    held_out_fields: dict[Literal["id", "question", "answer", "metadata", "images"], str] | None = None
    split: SplitSettings | None = None


class LogSettings(Settings):
    """Attempts that were made already, to learn from; see `load_logs`.

    Attributes:
        path: relative to the config file.
        form: of the file; `auto` looks.
        fields: which of its fields stand for what.
    """

    path: Path
    form: Literal["auto", "messages", "inspect", "otel", "served"] = "auto"
    fields: dict[str, str] = Field(default_factory=dict)


class ConfigSource(Settings):
    """A config file, and the values by dotted key that stood in place of its own."""

    file: Path
    changes: dict[str, Any] = Field(default_factory=dict)


class Config(Settings):
    """A whole config file.

    Attributes:
        name: of the run; runs of one name share what they paid for. The file's name if not given.
        store: file or SQLAlchemy address, relative to the config file.
        tasks: what there is to attempt; may be left out where there are logs.
        logs: attempts that were made already. Learning then practises on these and makes none.
        workers: where the agent's rollouts are made, if not here.
        learner: the learning model; the agent's own if not given.
        judge: the model of a judging verifier; the learning model if not given.
        verifier: `kind` and the settings of that kind.
        prices: by model name, for prices that genai-prices does not know.
        folder: of the config file, from which files of verifiers and tools are found.
        source: the config file, and what was changed in it, where there is one: what the same command is made of.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,47}$")] = "run"
    store: str = "tokenprior.db"
    tasks: TaskSettings | None = None
    logs: LogSettings | None = None
    agent: Annotated[AgentSettings, Field(discriminator="kind")]
    workers: WorkerSettings | None = None
    learner: str | None = None
    judge: str | None = None
    verifier: dict[str, Any]
    learn: LearnConfig = LearnConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    budget: BudgetSettings = BudgetSettings()
    endpoint: EndpointSettings = EndpointSettings()
    prices: dict[str, PriceSettings] = Field(default_factory=dict)
    folder: Annotated[Path, Field(exclude=True)] = Path()
    source: Annotated[ConfigSource | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _one_prior(self) -> Config:
        if "prior" in self.evaluate.model_fields_set and self.evaluate.prior != self.learn.prior:
            raise ValueError("evaluate.prior differs from learn.prior: what learns and what ships is one prior")
        return self

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Config:
        if self.tasks is None and self.logs is None:
            raise ValueError("expected `tasks`, or `logs` of attempts that were made already")
        if self.learner is None and self.agent.model is None:
            raise ValueError("expected `learner`, the model that writes the lessons: this agent names no model")
        if self.learner is None and leaves_open(self.learning_model):
            raise ValueError(
                f"expected `learner`, the model that writes the lessons: {redact(self.learning_model)} names none, its "
                "program does"
            )
        return self

    @model_validator(mode="after")
    def _batches_of_known_models(self) -> Config:
        known = [name for name in dict.fromkeys((self.agent.model, self.learner, self.judge)) if name]
        for name in (self.endpoint.batch and self.endpoint.batch.models) or ():
            if name not in known:
                here = ", ".join(map(redact, known))
                raise ValueError(
                    f"endpoint.batch.models names {redact(name)!r}, and no model here is called so: {here}"
                )
        return self

    @property
    def learning_model(self) -> str:
        """The name of the model that writes the lessons."""
        name = self.learner or self.agent.model
        assert name is not None, "validated"
        return name

    @field_validator("agent", mode="before")
    @classmethod
    def _kind_of_agent(cls, value: Any) -> Any:
        return {"kind": "tools" if "tools" in value else "chat"} | value if isinstance(value, dict) else value

    @field_validator("verifier", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


def leaves_open(model: str) -> bool:
    """Whether a name leaves it to the program which model it means."""
    return model.endswith(("#*", ":*"))


def load_config(path: str | Path, *, changes: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML config. Paths in it become relative to its folder.

    Args:
        changes: values by dotted key, such as `{"learn.group_size": 1}`, that stand in place of the file's.

    Raises:
        ConfigError: one line: the file, the key, what was got and expected, and the nearest right key.
    """
    path = Path(path)
    return config_of(read_yaml(path), path, changes=changes)


def config_of(value: dict[str, Any], path: Path, *, changes: Mapping[str, Any] | None = None) -> Config:
    """The config of the keys of a file, which need not be written yet; else as `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    for dotted, changed in (changes or {}).items():
        _set(value, dotted.split("."), changed)
    # A file may be called what a run may not.
    value.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-_.")[:48] or "run")
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Config)}") from error
    folder = path.parent
    source = ConfigSource(file=path.resolve(), changes=dict(changes or {}))
    moved: dict[str, Any] = {"folder": folder, "source": source}
    moved["store"] = config.store if "://" in config.store else str(folder / config.store)
    if config.tasks:
        held_out = config.tasks.held_out
        paths = {"path": _within(folder, config.tasks.path), "held_out": held_out and _within(folder, held_out)}
        moved["tasks"] = config.tasks.model_copy(update=paths)
    if config.logs:
        moved["logs"] = config.logs.model_copy(update={"path": folder / config.logs.path})
    return config.model_copy(update=moved)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file, whatever they are.

    Raises:
        ConfigError: it cannot be read, or holds no keys.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = " (tokenprior init writes one)" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}{hint}") from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{path}{at}: not YAML: {problem}") from error
    except (ValueError, RecursionError) as error:  # a date that does not exist, a list nested without end
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys such as `tasks:` and `agent:`, got {type(value).__name__}")
    return value


def _within(folder: Path, path: Path) -> Path:
    return path if str(path).startswith(HUB) else folder / path


def _set(value: dict[str, Any], keys: list[str], changed: Any) -> None:
    for key in keys[:-1]:
        inner = value.get(key)
        value[key] = inner if isinstance(inner, dict) else {}
        value = value[key]
    value[keys[-1]] = changed
