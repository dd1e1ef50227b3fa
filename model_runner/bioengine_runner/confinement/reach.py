"""The paths that Triton, the process of a model, the test of a package and its conversion may open, and why each is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import bioengine_contract

from bioengine_runner.confinement.landlock import (
    CHANGE,
    EXECUTE,
    IOCTL_DEV,
    MAKE_DIR,
    MAKE_REG,
    MAKE_SOCK,
    READ,
    READ_DIR,
    READ_FILE,
    REFER,
    REMOVE_DIR,
    REMOVE_FILE,
    TRUNCATE,
    WRITE_FILE,
    Access,
)

if TYPE_CHECKING:
    from bioengine_runner.rundir import Boot

# The project's own packages.
_PACKAGES = (Path(__file__).resolve().parents[1], Path(bioengine_contract.__file__).resolve().parent)

# Programs and libraries of the system; NixOS has its own place for them.
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/run/opengl-driver")
# In /etc only what the dynamic linker and glibc read.
_SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd",
    "/etc/group", "/etc/OpenCL", "/etc/vulkan",
)  # fmt: skip
# Properties of the machine: processors, memory, PCI devices, limits of a container.
_MACHINE = ("/sys/devices", "/sys/bus", "/sys/class", "/sys/module", "/sys/fs/cgroup", "/sys/kernel/mm", "/proc/driver/nvidia")
# /proc: a process's own entries, and what `bioengine_contract.processes` reads about others. Landlock itself denies memory,
# environment and open files of processes outside; everybody can read their command lines. Listing and writing are allowed only
# where there is a card: CUDA's driver (580) gives its threads names, by files in /proc, and does not start where it cannot.
_PROCESSES = "/proc"
_OWN_THREADS = "/proc/self/task"
_NOWHERE = "/dev/null"
_DEVICES = (_NOWHERE, "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# A process by itself gets less: of the system's files what the dynamic linker and the time zone need, of the machine its
# processors and its limits, and of /proc its own entries and the sizes of the machine.
_LINKER_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/alternatives", "/etc/localtime")
_PROCESSORS = ("/sys/devices/system", "/sys/fs/cgroup")
_OWN_PROCESS = "/proc/self"
_SIZES = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
# Devices of NVIDIA's driver and of WSL's; and of the kernel's own graphics drivers, which every desktop has.
_CUDA = ("nvidia*", "dxg")
_GPUS = (*_CUDA, "dri")

SHARED_MEMORY = Path("/dev/shm")


def of_python() -> Iterator[Access]:
    """The paths that this environment's Python, the libraries of models and the CUDA driver need."""
    yield from _of_environment()
    yield from (Access(Path(path), READ) for path in (*_SYSTEM_FILES, *_MACHINE))
    yield Access(Path(_PROCESSES), READ_FILE)
    yield from (Access(Path(path), READ_FILE | WRITE_FILE) for path in _DEVICES)
    for pattern in _GPUS:
        for device in Path("/dev").glob(pattern):
            yield Access(device, READ | WRITE_FILE | IOCTL_DEV)


def _names_of_threads(folder: str) -> Iterator[Access]:
    """For CUDA's driver, where there is a card. `folder`: of the threads that may be named."""
    if any(True for pattern in _CUDA for _ in Path("/dev").glob(pattern)):
        yield Access(Path(folder), CHANGE)


def _of_environment() -> Iterator[Access]:
    """The programs and libraries of the system and of this Python, and the project's own packages."""
    interpreter = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    programs = [*map(Path, _PROGRAMS), *map(Path, interpreter), *_PACKAGES, *_library_folders()]
    yield from (Access(path, READ | EXECUTE) for path in programs)
    yield from (Access(package.parent, READ_DIR) for package in _PACKAGES)  # Python looks for them there


def of_conversion(readable: Iterable[Path], output: Path) -> Iterator[Access]:
    """The paths that the conversion of a package may open: its environment, what it is given, and the folder that it writes.

    No device of a card, no shared memory, and no links or pipes in the folder.

    Args:
        readable: the package, and the inputs that the server has chosen.
        output: the folder for what it writes.
    """
    yield from _of_environment()
    yield from packages_on_path()
    yield from (Access(Path(path), READ) for path in (*_LINKER_FILES, *_PROCESSORS, _OWN_PROCESS))
    yield from (Access(Path(path), READ_FILE) for path in _SIZES)
    # Not written: /dev/zero, mapped to be shared, is memory that no limit of a process counts.
    yield from (Access(Path(path), READ_FILE) for path in _DEVICES)
    yield Access(Path(_NOWHERE), READ_FILE | WRITE_FILE)
    yield from (Access(path, READ) for path in readable)
    yield Access(output, READ | WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR | REFER)


def of_triton(
    installation: Iterable[Path],
    readable: Iterable[Path],
    own_models: Iterable[Path],
    writable: Iterable[Path],
    sockets: Path | None,
) -> Iterator[Access]:
    """The paths that Triton and its processes may open.

    Args:
        installation: folders of Triton's programs and backends.
        readable: the model store.
        own_models: the admin's own Triton models, which may contain programs, and their environments.
        writable: the boot folder, and the folder for shared tensors.
        sockets: the folder of the sockets on which Triton listens.
    """
    yield from of_python()
    # Those of processes that it will start have no files yet. The process of each model keeps its own ones alone.
    yield from _names_of_threads(_PROCESSES)
    yield from (Access(folder, READ | EXECUTE) for folder in (*installation, *own_models))
    yield from (Access(folder, READ) for folder in readable)
    yield from (Access(folder, CHANGE) for folder in writable)
    # All segments are directly in this folder, so those of other programs of the same user can be opened, too.
    yield Access(SHARED_MEMORY, READ | WRITE_FILE | TRUNCATE | CHANGE & ~MAKE_DIR)
    # The Python backend makes a folder /tmp/python_env_... at each start and does not remove it; its path cannot be changed.
    yield Access(Path("/tmp"), MAKE_DIR)
    if sockets is not None:
        yield Access(sockets, MAKE_SOCK | REMOVE_FILE)


def of_model(boot: Boot, package: Path) -> Iterator[Access]:
    """The paths that the process of one model may open, of those that Triton may."""
    yield from of_python()
    yield from _names_of_threads(_OWN_THREADS)
    yield from packages_on_path()
    yield from (Access(folder, READ) for folder in (package, boot.model_repository, boot.working_directory))
    if boot.labels is not None:
        yield Access(boot.labels, READ | EXECUTE)
    writable = (boot.processes, boot.home, boot.temporary, boot.cache, SHARED_MEMORY, boot.shared_tensors)
    yield from (Access(folder, CHANGE) for folder in writable if folder is not None)


def of_package_test(package: Path, working: Path) -> Iterator[Access]:
    """The paths that the test of a stored package may open: it can read the package and write its working folder."""
    yield from of_python()
    yield from _names_of_threads(_OWN_THREADS)
    yield Access(package, READ)
    yield from (Access(folder, CHANGE) for folder in (working, SHARED_MEMORY))


def packages_on_path() -> Iterator[Access]:
    """Where this process finds packages: an environment may use those of another one, and Triton's stub names none as its own."""
    # Their own paths: a folder whose path Triton cannot take is on the list by a link with another name.
    folders = [Path(folder).resolve() for folder in sys.path if folder]
    yield from (Access(folder, READ) for folder in folders if folder.name.endswith("-packages"))


def _library_folders() -> Iterator[Path]:
    """Folders of further libraries, unless they contain the user's home."""
    home = Path.home()
    for name in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        folder = Path(name).resolve() if name else None
        if folder is not None and folder != home and folder not in home.parents:
            yield folder
