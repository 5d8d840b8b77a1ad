"""tokenprior: make a frozen LLM agent better without touching its weights.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprior.agents.base import Agent
    from tokenprior.agents.chat import ChatAgent
    from tokenprior.audit import Audit, audit
    from tokenprior.comparison import Comparison
    from tokenprior.config import Config, EvaluateConfig, LearnConfig, load_config
    from tokenprior.errors import TokenpriorError
    from tokenprior.evaluate import compare, evaluate
    from tokenprior.experience import Experience
    from tokenprior.exports import export, import_library
    from tokenprior.learn import LearnResult, learn
    from tokenprior.library import Library
    from tokenprior.load import load_tasks
    from tokenprior.models.base import Model
    from tokenprior.models.scripted import ScriptedModel
    from tokenprior.prior import Rendering, TokenPrior
    from tokenprior.prove import Gate
    from tokenprior.reward import Reward
    from tokenprior.rollout import Rollout
    from tokenprior.session import Session, session
    from tokenprior.store import open_store
    from tokenprior.task import Task, TaskSet
    from tokenprior.verifiers import make_verifier
    from tokenprior.verifiers.base import Verifier
    from tokenprior.wrappers import with_prior, wrap

__version__ = "0.1.0"

_HOME = {
    "Agent": "agents.base",
    "Audit": "audit",
    "ChatAgent": "agents.chat",
    "Comparison": "comparison",
    "Config": "config",
    "EvaluateConfig": "config",
    "Experience": "experience",
    "Gate": "prove",
    "LearnConfig": "config",
    "LearnResult": "learn",
    "Library": "library",
    "Model": "models.base",
    "Rendering": "prior",
    "Reward": "reward",
    "Rollout": "rollout",
    "ScriptedModel": "models.scripted",
    "Session": "session",
    "Task": "task",
    "TaskSet": "task",
    "TokenPrior": "prior",
    "TokenpriorError": "errors",
    "Verifier": "verifiers.base",
    "audit": "audit",
    "compare": "evaluate",
    "evaluate": "evaluate",
    "export": "exports",
    "import_library": "exports",
    "learn": "learn",
    "load_config": "config",
    "load_tasks": "load",
    "make_verifier": "verifiers",
    "open_store": "store",
    "session": "session",
    "with_prior": "wrappers",
    "wrap": "wrappers",
}

__all__ = [
    "Agent",
    "Audit",
    "ChatAgent",
    "Comparison",
    "Config",
    "EvaluateConfig",
    "Experience",
    "Gate",
    "LearnConfig",
    "LearnResult",
    "Library",
    "Model",
    "Rendering",
    "Reward",
    "Rollout",
    "ScriptedModel",
    "Session",
    "Task",
    "TaskSet",
    "TokenPrior",
    "TokenpriorError",
    "Verifier",
    "audit",
    "compare",
    "evaluate",
    "export",
    "import_library",
    "learn",
    "load_config",
    "load_tasks",
    "make_verifier",
    "open_store",
    "session",
    "with_prior",
    "wrap",
]


class _Package(ModuleType):
    """Keeps a module from taking the place of the function of its name: `tokenprior.learn` is what one calls.

    Importing a submodule sets it as an attribute of its package, so after `from tokenprior import compare` the name
    `tokenprior.evaluate` was a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and _HOME.get(name) == name):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tokenprior' has no attribute {name!r}")
    value = getattr(import_module(f"tokenprior.{_HOME[name]}"), name)
    globals()[name] = value
    return value
