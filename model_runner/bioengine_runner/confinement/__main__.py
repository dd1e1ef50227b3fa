"""Print what confines Triton on this machine, as JSON.

    python -m bioengine_runner.confinement ACCELERATOR

`has`, `lacks`: what is used, and what models can do nevertheless. `cuda_error`: why that is less than the kernel supports, CUDA's
error in the whole confinement; otherwise 0.
"""

from __future__ import annotations

import json
import sys

from bioengine_runner.confinement import available
from bioengine_runner.confinement.reach import of_triton
from bioengine_runner.confinement.start import has_card, usable

(accelerator,) = sys.argv[1:]
uses_card = has_card(accelerator)
protection, cuda_error = usable(uses_card, tuple(of_triton((), (), (), (), None)), ())
print(json.dumps({"kernel": str(available()), "has": str(protection), "lacks": protection.lacks, "cuda_error": cuda_error}))
