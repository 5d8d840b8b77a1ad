"""An agent that knows nothing of tokenprior: OpenAI's own client, one tool, a question in, an answer out.

    OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/program_agent.py "What is 17 * 23?"

As an agent to be taught, in a config:

    agent:
      kind: program
      model: "http://localhost:8000/v1#*"
      command: [python, examples/program_agent.py, "{question}"]
    learner: "http://localhost:8000/v1#my-model"
"""

import json
import os
import sys

from openai import OpenAI

SYSTEM = "You solve arithmetic tasks. Use the tool for every product. Reply with the number alone."
TOOL = {
    "type": "function",
    "function": {
        "name": "multiply",
        "description": "The product of two whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def main(question: str) -> None:
    client = OpenAI()  # finds the model by OPENAI_BASE_URL and OPENAI_API_KEY
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    while True:
        reply = client.chat.completions.create(
            model=os.environ.get("MODEL", "default"), messages=messages, tools=[TOOL]
        )
        said = reply.choices[0].message
        if not said.tool_calls:
            print(said.content)
            return
        messages.append(said.model_dump(exclude_none=True))
        for call in said.tool_calls:
            try:
                arguments = json.loads(call.function.arguments)
                result = str(int(arguments["a"]) * int(arguments["b"]))
            except (ValueError, KeyError, TypeError) as error:
                result = f"{type(error).__name__}: {error}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read())
