"""A process that runs images for which it has too little memory: `python -m tests.unit.runner.tight_memory FOLDER SIDE ROOM`.

Prints JSON: the shapes of `outputs` of a square image that is run twice, and how often a run of the weights `failed` each time.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_runner.inference import Pipeline
from bioengine_runner.rundir import Boot

from tests.unit.runner.stored import stored


def main() -> None:
    folder, side, room = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    boot = Boot(folder, folder, run_timeout=1, debug=False, accelerator="cpu")
    pipeline = Pipeline(stored(folder, folder.name), ["onnx"], boot)
    pipeline.predict([np.zeros((1, 1, 128, 128), np.float32)])
    pipeline._budget._bytes_per_pixel = 1.0  # it believes that all fits
    forward, failed = pipeline.opened.forward, [0]

    def counting(arrays: Any) -> Any:
        try:
            return forward(arrays)
        except Exception:
            failed[-1] += 1
            raise

    pipeline.opened.forward = counting  # type: ignore[method-assign]
    (size,) = re.findall(r"^VmSize:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    resource.setrlimit(resource.RLIMIT_AS, (int(size) * 1024 + room, -1))
    image = np.zeros((1, 1, side, side), np.float32)
    outputs = [pipeline.predict([image])[0].shape]
    failed.append(0)
    outputs.append(pipeline.predict([image])[0].shape)
    print(json.dumps({"outputs": outputs, "failed": failed}))


if __name__ == "__main__":
    main()
