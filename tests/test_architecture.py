"""The arrows of the house, over `ast`; and that importing the package costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenprior
from tokenprior import errors

SOURCE = Path(tokenprior.__file__).parent
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.name != "__init__.py" or path.parent != SOURCE
}

NOUNS = {
    "task", "rollout", "reward", "group", "advantage", "experience", "operation", "library", "prior", "epoch",
    "reply", "statistics", "sequential", "redact", "progress", "arm", "comparison", "controls",
    "effects", "trial", "plot", "display", "relevance", "placement", "text", "served", "private",
    "merge", "stratified", "live_effect", "quotes", "adaptive",
}  # fmt: skip
VERBS = {
    "attempt", "practise", "contrast", "revise", "prove", "learn", "evaluate", "audit", "tips", "ask", "flow",
    "forecast", "session", "live", "worker",
}  # fmt: skip
FAMILIES = {"agents", "verifiers", "models", "tools", "prompts", "store", "exports", "logs"}
DOORS = {"cli", "serve", "__main__", "wrappers"}
GROUND = {
    "errors",
    "config",
    "settings",
    "agent_settings",
    "endpoint_settings",
    "options",
    "source",
    "sqlite_query",
    "load",
    "draft",
}

# Files that the members of a family stand on beside their base.
FAMILY_GROUND = {
    "models": {"budget", "prices", "catalog", "chat_body", "batch_api", "batch_carrier", "wire"},
    "agents": {"toolbox", "fenced", "frameworks", "gateway", "seat", "ending", "lookout"},
    "tools": {
        "address",
        "fetch",
        "robots",
        "engines",
        "pagetext",
        "markdown",
        "documents",
        "sandbox",
        "sandbox_process",
        "sandbox_monty",
        "sandbox_guest",
        "sandbox_warden",
        "sandbox_launch",
        "sandbox_filter",
    },
    "logs": {"spans"},
    "verifiers": {"take", "diagnose", "pool", "pattern", "numeral"},
    "prompts": {"shown"},
    # Lines of a prompt are told apart as those of flat JSON are; a rule and a skill are a section with a front.
    "exports": {"flat", "prompt", "items", "section"},
    "store": {"schema", "codec", "lock", "writer", "record", "open"},  # one thing in several files, not members
}

# What the rules do not allow and the house does, each with its reason.
EXCEPTIONS = {
    ("agents", "models"): "the plain agent asks a model, by its protocol",
    ("verifiers", "models"): "a judge asks a model, by its protocol",
    ("agents", "tools"): "an agent with tools calls them, by their protocol",
    ("agents", "logs"): "attempts of the past are an agent's",
    ("verifiers", "logs"): "and their rewards a verifier's",
    ("models", "tools"): "workers elsewhere reach the ledger of tools by the same desk as the model",
    ("store", "models"): "the store is the ledger of calls, by its protocol",
    ("store", "tools"): "and of the calls of tools",
    ("endpoint_settings", "models"): "settings become limits, prices and retry policies",
}
ASSEMBLERS = {
    "models.connect",
    "models.batching",
    "verifiers",
    "tools",
    "logs",
    "exports",
    "store",
    "models.embedded_server",
    "models.tune",
}

HEAVY = {
    "aiohttp", "alembic", "genai_prices", "httpx", "jinja2", "json_repair", "jsonschema", "math_verify", "openai",
    "pydantic", "pydantic_ai", "sqlalchemy", "starlette", "xllamacpp", "yaml",
    "bs4", "datasets", "ddgs", "fastmcp", "markdownify", "mcp", "ray", "sandlock", "trafilatura", "yarl",
}  # fmt: skip


def imports(path: Path, *, whole: bool = True) -> Iterator[str]:
    """Modules that a file imports; with `whole` those inside functions too, else what loading it loads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("tokenprior.") in MODULES else str(node.module)
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not whole and (is_typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        nodes.extend(ast.iter_child_nodes(node))


def own(path: Path) -> set[str]:
    """Our own modules that a file imports, without `tokenprior.`."""
    names = {name for name in imports(path) if name.split(".")[0] == "tokenprior" and name != "tokenprior"}
    return {name.removeprefix("tokenprior.") for name in names}


def top(module: str) -> str:
    return module.split(".")[0]


def test_every_module_has_its_place() -> None:
    places = NOUNS | VERBS | FAMILIES | DOORS | GROUND
    assert {top(module) for module in MODULES} <= places


@pytest.mark.parametrize("noun", sorted(NOUNS & set(MODULES)))
def test_nouns_import_nouns_and_errors_alone(noun: str) -> None:
    assert {top(name) for name in own(MODULES[noun])} <= NOUNS | {"errors"}


@pytest.mark.parametrize("noun", sorted((NOUNS - {"task", "redact"}) & set(MODULES)))
def test_nouns_do_no_io_and_read_no_clock(noun: str) -> None:
    found = {name.split(".")[0] for name in imports(MODULES[noun])}
    assert not found & {"os", "pathlib", "time", "datetime", "asyncio", "subprocess", "socket", "secrets", "uuid"}


def test_randomness_of_nouns_comes_from_a_seed() -> None:
    for noun in NOUNS & set(MODULES):
        text = MODULES[noun].read_text(encoding="utf-8")
        assert not re.search(r"\brandom\.(?!Random\()\w+\(", text), noun
        assert "random.Random()" not in text, noun


@pytest.mark.parametrize("module", [module for module in MODULES if top(module) in FAMILIES])
def test_members_of_a_family_import_their_base_and_the_nouns(module: str) -> None:
    family = top(module)
    ground = {f"{family}.{name}" for name in FAMILY_GROUND.get(family, set())} | {f"{family}.base", family}
    for name in own(MODULES[module]):
        if top(name) == family:
            assert name in ground or module in ASSEMBLERS or module.startswith("store."), f"{module} imports {name}"
        elif top(name) in FAMILIES:
            assert (family, top(name)) in EXCEPTIONS, f"{module} imports {name}"
            assert name == f"{top(name)}.base", f"{module} imports {name}, and not the protocol"
        elif name in ("config", "endpoint_settings"):
            assert module in ASSEMBLERS, f"{module} imports the config"
        else:
            below = {"errors", "source", "sqlite_query", "options", "flow"}
            assert top(name) in NOUNS | below, f"{module} imports {name}"


def test_only_the_loop_evaluation_and_the_session_touch_the_store() -> None:
    touching = {top(module) for module in MODULES if any(top(name) == "store" for name in own(MODULES[module]))}
    assert touching - DOORS <= {"learn", "practise", "evaluate", "prove", "audit", "session", "live", "store"}


def test_nothing_imports_a_door() -> None:
    for module, path in MODULES.items():
        if top(module) not in DOORS:
            assert not {top(name) for name in own(path)} & DOORS, module


def test_verbs_import_no_member_of_a_family() -> None:
    allowed = {"agents.base", "models.base", "verifiers.base", "store.record", "prompts"}
    for verb in (VERBS - {"session", "live", "worker", "forecast"}) & set(MODULES):
        for name in own(MODULES[verb]):
            if top(name) in FAMILIES:
                assert name in allowed or top(name) == "prompts", f"{verb} imports {name}"


def test_what_settings_import_of_a_family_is_values() -> None:
    found = {name for name in own(MODULES["endpoint_settings"]) if top(name) in FAMILIES}
    assert found <= {"models.batch_carrier", "models.budget", "models.prices", "models.retried"}


LIGHT = ["errors", *sorted(NOUNS & set(MODULES)), "__main__", *(module for module in MODULES if top(module) == "cli")]


@pytest.mark.parametrize("module", LIGHT)
def test_what_help_loads_imports_nothing_heavy(module: str) -> None:
    loaded = {name.split(".")[0] for name in imports(MODULES[module], whole=False)}
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "import sys, tokenprior; import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"],
        [
            "-c",
            "import sys, json, atexit, runpy; sys.argv[1:] = ['--help']; "
            "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr)); "
            "runpy.run_module('tokenprior', run_name='__main__', alter_sys=True)",
        ],
    ],
    ids=["import", "help"],
)
def test_loading_the_package_or_its_help_loads_nothing_heavy(arguments: list[str]) -> None:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.split(".")[0] for name in json.loads(ended.stderr.splitlines()[-1])}
    assert "tokenprior" in loaded
    assert not loaded & HEAVY


def test_every_public_name_can_be_imported_and_the_three_lists_agree() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: str(node.module).removeprefix("tokenprior.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == tokenprior._HOME
    assert sorted(tokenprior.__all__) == tokenprior.__all__ == sorted(typed)
    for name, home in typed.items():
        found = getattr(tokenprior, name)
        assert found is getattr(importlib.import_module(f"tokenprior.{home}"), name)
        assert not inspect.ismodule(found), f"tokenprior.{name} is a module"


@pytest.mark.parametrize("first", ["from tokenprior import compare", "import tokenprior.learn, tokenprior.session"])
def test_a_module_never_takes_the_place_of_the_function_of_its_name(first: str) -> None:
    program = f"{first}; import tokenprior as t; print(*(callable(f) for f in (t.learn, t.evaluate, t.session)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "True True True\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tokenprior.nothing


def test_the_tree_drawn_in_errors_is_the_tree_of_the_classes() -> None:
    drawn: list[tuple[str, str]] = []
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth] = match[2]
            drawn.append((match[2], above.get(depth - 1, "Exception")))
    classes = [
        (name, value.__bases__[0].__name__)
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert sorted(drawn) == sorted(classes)
    assert all(issubclass(getattr(errors, name), errors.TokenpriorError) for name, _ in classes)


def test_every_error_has_an_exit_code_that_is_not_success() -> None:
    for value in vars(errors).values():
        if inspect.isclass(value) and issubclass(value, errors.TokenpriorError):
            assert value.exit_code in (1, 2, 3)
