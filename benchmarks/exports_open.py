"""Every export in the tool that it is for: what opened what.

    python -m venv /some/venv && /some/venv/bin/pip install -r benchmarks/requirements-peers.txt skills-ref
    python benchmarks/exports_open.py --peers-python /some/venv/bin/python

It runs in the environment of tokenprior. DSPy is in another one, since its litellm cannot live beside openai 3: this
same file is started there as a worker, which is given its job on stdin and answers on stdout. Nothing leaves the
machine: DSPy asks its own dummy, and GEPA reflects with a function. A tool that is not there is said to be absent.

How to read a line: the form, the tool with its version, and what was looked at: that the tool takes the file without a
word, that its model is then asked with the lessons in the prompt, word for word, and that what the tool saves again
comes back into tokenprior as the same lessons. ACE is on no package registry; its reader is one regular expression,
which the tests repeat.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INSTRUCTIONS = "Answer in one word."


# The worker, in the environment of DSPy: nothing of tokenprior is imported here.


def work() -> None:
    """Loads states as a user does, asks a dummy model, and saves again; the job from stdin, its outcome to stdout."""
    import logging

    import dspy
    from dspy.utils import DummyLM

    job = json.load(sys.stdin)
    warnings: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dspy").addHandler(listener)

    class Program(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.solve = dspy.ChainOfThought("question -> answer")
            self.check = dspy.Predict("question, answer -> verdict")

        def forward(self, question: str) -> Any:
            return self.check(question=question, answer=self.solve(question=question).answer)

    folder = Path(job["folder"])
    if job["what"] == "save":
        Program().save(folder / "own.json")
        return
    program = Program() if job["what"] == "program" else dspy.Predict("question -> answer")
    program.load(folder / job["file"])
    model = DummyLM([{"reasoning": "r", "answer": "a", "verdict": "v"}] * 4)
    with dspy.context(lm=model):
        program(question="q")
    prompts = [json.dumps(call["messages"]) for call in model.history]
    program.save(folder / "again.json")
    json.dump({"prompts": prompts, "warnings": warnings, "version": dspy.__version__}, sys.stdout)


def dspy_says(python: str, folder: Path, what: str, file: str = "") -> dict[str, Any]:
    job = json.dumps({"what": what, "folder": str(folder), "file": file})
    ended = subprocess.run(
        [python, __file__, "--work"], input=job, capture_output=True, text=True, timeout=300, check=False
    )
    if ended.returncode:
        raise SystemExit(f"dspy failed:\n{ended.stderr}")
    outcome: dict[str, Any] = json.loads(ended.stdout or "{}")
    return outcome


def open_in_dspy(library: Any, python: str, folder: Path) -> list[str]:
    from tokenprior.exports import export, import_library
    from tokenprior.prior import TokenPrior

    def wanted(instructions: str) -> str:
        # DSPy indents what it shows of instructions by its own taste, so lines are looked for one by one.
        return TokenPrior.of(library).conditioned(instructions)

    lines = []
    (folder / "predict.json").write_text(export(library, "dspy", instructions=INSTRUCTIONS), encoding="utf-8")
    dspy_says(python, folder, "save")
    own = (folder / "own.json").read_text(encoding="utf-8")
    (folder / "program.json").write_text(export(library, "dspy", into=own), encoding="utf-8")
    for what, file in (("predictor", "predict.json"), ("program", "program.json")):
        said = dspy_says(python, folder, what, file)
        instructions = wanted(INSTRUCTIONS if what == "predictor" else "").splitlines()
        asked = all(json.dumps(line)[1:-1] in prompt for prompt in said["prompts"] for line in instructions)
        again = import_library(folder / "again.json").version == library.version
        lines.append(
            f"dspy     dspy {said['version']}: a {what} loads; {len(said['prompts'])} calls, lessons in each prompt: "
            f"{asked}; saved and imported the same: {again}; warnings: {said['warnings'] or 'none'}"
        )
    return lines


def open_in_gepa(library: Any) -> str:
    try:
        import gepa
        from gepa import EvaluationBatch
    except ImportError:
        return "gepa     absent"
    from tokenprior.exports import export
    from tokenprior.prior import TokenPrior

    seen: list[str] = []

    class Adapter:
        propose_new_texts = None

        def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> Any:
            seen.append(candidate["system_prompt"])
            return EvaluationBatch(outputs=batch, scores=[0.0] * len(batch), trajectories=batch)

        def make_reflective_dataset(self, candidate: dict[str, str], batch: Any, names: list[str]) -> Any:
            return {name: [{"Inputs": "x", "Generated Outputs": "y", "Feedback": "wrong"}] for name in names}

    class Quiet:
        def log(self, message: str) -> None: ...

    result = gepa.optimize(
        seed_candidate=json.loads(export(library, "gepa", instructions=INSTRUCTIONS)),
        trainset=["a", "b", "c"],
        valset=["d"],
        adapter=Adapter(),
        reflection_lm=lambda prompt: "```\nAnother.\n```",
        max_metric_calls=10,
        logger=Quiet(),
    )
    starts = seen[0] == TokenPrior.of(library).conditioned(INSTRUCTIONS)
    version = importlib.metadata.version("gepa")
    return f"gepa     gepa {version}: starts from the candidate: {starts}; candidates: {len(result.candidates)}"


def open_as_skill(library: Any, python: str | None, folder: Path) -> str:
    from tokenprior.exports import export

    program = Path(python).with_name("agentskills") if python else None
    if not program or not program.exists():
        return "skill    skills-ref absent"
    place = folder / "lessons-of-ours"
    place.mkdir()
    (place / "SKILL.md").write_text(export(library, "skill", name=place.name), encoding="utf-8")
    ended = subprocess.run([program, "validate", place], capture_output=True, text=True, timeout=60, check=False)
    said = (ended.stdout + ended.stderr).strip().replace(str(place), place.name)
    return f"skill    skills-ref: {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="the Python of an environment with dspy, and skills-ref if you like")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    from tokenprior.experience import Experience
    from tokenprior.library import Library

    library = Library(
        experiences=(
            Experience(id="G0", name="Units", text='When a table has "units", keep <them>: 5 km, not 5.'),
            Experience(id="G3", text="When a formula has braces {a} and $b$, copy it \\ as it is; é, 名."),
        )
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        python = arguments.peers_python
        for line in open_in_dspy(library, python, folder) if python else ["dspy     absent: give --peers-python"]:
            print(line)
        print(open_in_gepa(library))
        print(open_as_skill(library, python, folder))


if __name__ == "__main__":
    main()
