"""The main job in Python: learn from practice tasks, then see on held-out tasks what it brought.

    python examples/quickstart.py examples/demo/demo.yaml

The config names the tasks, the model and the checker; `tokenprior init YOUR_DATA` writes one for you.
"""

import asyncio
import sys

import tokenprior as tp


async def main(path: str) -> None:
    async with tp.session(tp.load_config(path)) as session:
        result = await session.learn()
        print(tp.export(result.library, "text"))
        comparison = await session.compare({"learned": result.library})
        for difference in comparison.differences:
            print(difference.verdict)


asyncio.run(main(sys.argv[1]))
