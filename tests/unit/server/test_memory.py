"""The server's use of memory as the operating system reports it, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_PROGRAM = """
import asyncio, gc, json
import psutil
from bioengine_server import memory

memory._KEPT_FOR, memory._SOON = 3.0, 0.1

def resident():
    return psutil.Process().memory_info().rss

def image():
    parts = [bytes(range(256)) * 65_536 for _ in range(8)]  # 16 MB each
    pin = bytearray(1000)  # at the end of the heap or not, as with any other program
    del parts
    return pin

async def seconds_until_back(before):
    for tenth in range(100):
        if resident() - before < 20e6:
            return tenth / 10
        await asyncio.sleep(0.1)

async def work():
    seen = {}
    before = resident()
    pins = [image()]
    seen["kept"] = resident() - before
    for _ in range(40):
        memory.image_passes()
        await asyncio.sleep(0.1)
    seen["kept while images pass"] = resident() - before
    seen["seconds until back"] = await seconds_until_back(before)
    pins.append(image())
    memory.image_passes()
    memory.give_back_soon()
    seen["seconds until back when wanted"] = await seconds_until_back(before)
    memory.leave_what_is_there()
    seen["frozen"] = gc.get_freeze_count()
    print(json.dumps(seen))

asyncio.run(memory.keeping_memory(work()))
"""


def test_memory_stays_while_images_pass_and_goes_back_after() -> None:
    program = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60)
    assert program.returncode == 0, program.stderr
    seen: dict[str, Any] = json.loads(program.stdout)
    print(seen)
    assert seen["kept"] > 100e6 and seen["kept while images pass"] > 100e6
    assert seen["seconds until back"] is not None and seen["seconds until back"] > 0.3
    assert seen["seconds until back when wanted"] is not None and seen["seconds until back when wanted"] < 2.5
    assert seen["frozen"] > 10_000
