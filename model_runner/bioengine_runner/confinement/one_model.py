"""The process of one model: confined further than Triton as a whole, before anything of its package is opened.

Of the folders that Triton's processes may open, it keeps its own package, what the models' processes write in the run dir, and
shared memory: it cannot read other packages, and cannot change the programs of other models. Unless the admin trusts code of its
package, it also starts no program and no other process, and sends no signal.

This takes less than a millisecond. What stays common to all models is the folder of shared tensors, /dev/shm, and the records in
the run dir.
"""

from __future__ import annotations

import errno
from pathlib import Path

from bioengine_runner.confinement import available, landlock, seccomp
from bioengine_runner.confinement.alone import KILL, PROCESSES, PROGRAMS, SIGNALS, SOCKETS, threads_and_itself_only
from bioengine_runner.confinement.kernel import GET_NO_NEW_PRIVILEGES, process_control
from bioengine_runner.confinement.reach import of_model
from bioengine_runner.confinement.seccomp import Check, Rule
from bioengine_runner.rundir import Boot


def confine_model(boot: Boot, package: Path, runs_code: bool) -> None:
    """Confine this thread and those that it starts, for good, as far as the kernel supports it; not if Triton is not confined.

    Landlock does not apply to the threads that Triton's stub and CUDA's driver have started before; they run nothing of the
    package.

    Args:
        boot: this start of Triton.
        package: the folder of the model's package.
        runs_code: whether code of the package runs, because the admin trusts it.

    Raises OSError.
    """
    if not process_control(GET_NO_NEW_PRIVILEGES, 0):
        return  # BIOENGINE_CONFINE=off
    protection = available()
    if protection.landlock:
        # Without scopes: the stub asks by a signal (kill with 0) whether Triton still lives.
        landlock.restrict(of_model(boot, package), with_scopes=False)
    if protection.seccomp and not runs_code:
        seccomp.install(_rules(), for_all_threads=True)


def _rules() -> tuple[Rule, ...]:
    refused = {**PROGRAMS, **PROCESSES, **SIGNALS, **SOCKETS}
    return (
        *(Rule(number, errno.EPERM) for number in refused.values()),
        Rule(KILL, errno.EPERM, (Check(1, (0,)),)),
        *threads_and_itself_only(),
    )
