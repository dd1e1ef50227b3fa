"""A process that runs one square image and says what memory it held: `python -m tests.unit.runner.large_image FOLDER SIDE AFTER`.

Prints JSON: bytes `at_rest`, at the `peak`, and `after` as many seconds as memory may take to come back; the `tiles`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from bioengine_runner import rest
from bioengine_runner.inference import Pipeline
from bioengine_runner.rundir import Boot
from bioengine_runner.tiling.memory import HostMemory, watched

from tests.unit.runner.stored import stored


def main() -> None:
    folder, side, after = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    rest.AFTER = min(rest.AFTER, after / 2)
    pipeline = Pipeline(
        stored(folder, folder.name), ["onnx"], Boot(folder, folder, run_timeout=1, debug=False, accelerator="cpu")
    )
    pipeline.predict([np.zeros((1, 1, 128, 128), np.float32)])
    image, memory = np.zeros((1, 1, side, side), np.float32), HostMemory()
    at_rest = memory.used()
    with watched(memory) as peak:
        (result,) = pipeline.predict([image])
    assert result.shape == image.shape
    del result
    time.sleep(after)
    print(json.dumps({"at_rest": at_rest, "peak": peak.bytes, "after": memory.used()}))


if __name__ == "__main__":
    main()
