"""Commands to be killed: each line of standard input is the arguments of one, as JSON, which becomes a process.

Everything is imported once before, and no more than that is shared. It prints the process id, and how it ended. What a
command says goes to the file that the line names first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

import tokenprior.session  # noqa: F401
from tokenprior.cli import main
from tokenprior.models.base import CallFailed, CallKey, Request
from tokenprior.models.forward import ForwardModel
from tokenprior.rollout import Message


async def warm() -> None:
    """One call that nobody answers, for what is only made ready by a call."""
    model = ForwardModel.at("http://127.0.0.1:9/v1#nobody")
    with contextlib.suppress(CallFailed):
        await model.answer(Request(key=CallKey(phase="rollout"), messages=(Message(role="user", content="x"),)))
    await model.aclose()


if __name__ == "__main__":
    asyncio.run(warm())
    for line in sys.stdin:
        file, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                said = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(said, 1)
                os.dup2(said, 2)
                sys.argv = ["tokenprior", *arguments]
                main()
                status = 0
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)  # noqa: T201 (this is how it speaks)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
