"""The verbs with pieces of your own: a model, a verifier, a store. Here both are a few lines, so that it runs anywhere.

    python examples/own_pieces.py

The "model" shouts unless a lesson in its prompt says otherwise; as learning model it writes that lesson.
"""

import asyncio
import json
import tempfile
from pathlib import Path

import tokenprior as tp

LESSON = "When greeting somebody, write in small letters."


def model(request):
    """Answers rollouts, contrasts and updates. Put `tp.ChatAgent(model=...)` over a real endpoint instead."""
    if request.key.phase in ("rollout", "gate", "evaluate"):
        quiet = "small letters" in request.messages[0].content
        return "hello" if quiet or request.key.rollout == 0 else "HELLO"
    if request.key.phase == "contrast":
        return json.dumps({"difference": "case", "lessons": [{"name": "Case", "lesson": LESSON}]})
    return json.dumps([{"op": "Add", "name": "Case", "text": LESSON, "lessons": [1], "reason": "both groups say so"}])


class Quiet:
    """A verifier is one method and a fingerprint."""

    fingerprint = "quiet-1"

    async def verify(self, task, rollout):
        return tp.Reward(value=float(rollout.output.islower()), feedback="Too loud." * rollout.output.isupper())


async def main() -> None:
    names = ["Ada", "Grace", "Alan", "Edsger", "Donald", "Barbara", "Dennis", "Radia", "Tim", "Frances", "Vint", "Joan"]
    tasks = tp.TaskSet(tp.Task(id=name, question=f"Greet {name}.") for name in names)
    scripted = tp.ScriptedModel(model)
    agent = tp.ChatAgent(model=scripted, instructions="Be polite.")
    with tempfile.TemporaryDirectory() as folder, tp.open_store(Path(folder) / "runs.db") as store:
        record = store.open_run("greetings-1", name="greetings", kind="learn", config={})
        result = await tp.learn(
            tasks[:4],
            agent=agent,
            verifier=Quiet(),
            model=scripted,
            record=record,
            config=tp.LearnConfig(epochs=2, batch_size=2, group_size=3),
            gate=tp.Gate(tasks=tasks[4:], agent=agent),  # a library ships only if it helps on these
        )
        record.close("done")
    for step in result.steps:
        print(f"step {step['step']}: mean reward {step['mean']:.2f}, {step['experiences']} experiences")
        for trial in step["trials"]:
            print(f"    {trial['sentence']}")
    print(tp.export(result.library, "text"), end="")


asyncio.run(main())
