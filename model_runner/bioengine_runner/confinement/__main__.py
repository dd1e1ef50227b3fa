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
from bioengine_runner.confinement.start import inherited_variables, usable
from bioengine_runner.gpu import gpus

(accelerator,) = sys.argv[1:]
cuda_with = inherited_variables(accelerator) if gpus() else None
protection, cuda_error = usable(tuple(of_triton((), (), (), (), None)), (), cuda_with)
print(json.dumps({"kernel": str(available()), "has": str(protection), "lacks": protection.lacks, "cuda_error": cuda_error}))
