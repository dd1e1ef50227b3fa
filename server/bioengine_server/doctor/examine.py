"""All examinations, one subject after the other. None changes anything."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from bioengine_server.doctor import gpu, installation, machine, network, protection
from bioengine_server.doctor.finding import Examination, Finding
from bioengine_server.doctor.setup import Setup

logger = logging.getLogger(__name__)

EXAMINATIONS: tuple[Examination, ...] = (
    machine.memory,
    machine.shared_memory,
    machine.disk,
    machine.clock,
    gpu.driver,
    gpu.libraries,
    gpu.docker,
    network.port,
    network.names,
    network.told_address,
    network.pages,
    network.certificate,
    installation.settings_files,
    installation.env_file,
    installation.versions,
    installation.store,
    installation.secrets,
    installation.access,
    protection.confinement,
    protection.conversion,
    protection.users,
    protection.home,
)


def examine(setup: Setup) -> Iterator[Finding]:
    """The findings of all examinations. One that raises an error is reported, and the others still run."""
    for examination in EXAMINATIONS:
        try:
            yield from examination(setup)
        except Exception as error:
            logger.debug("%s failed", examination.__name__, exc_info=True)
            subject = examination.__name__.replace("_", " ")
            yield Finding(
                subject,
                "problem",
                f"could not be examined: {type(error).__name__}: {error}",
                "This is an error in `doctor` itself: please report it.",
            )
