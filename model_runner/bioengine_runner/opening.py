"""A package on its way into memory, in a thread of its own.

Where a model's `initialize` raises, or its process ends meanwhile, Triton 2.51 now and then aborts (Signal 6, `lock_exception`),
or the load never returns and requests to all models hang. So `initialize` starts this thread and returns before anything of the
package is read or imported: whatever a package does then, Triton has loaded its model, and the death of its process is that of
any loaded one. What came of it is in the process's record, where the loader looks for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bioengine_contract.errors import RemoteError, RequestError
from bioengine_contract.manifest import Manifest
from bioengine_contract.model_errors import ModelNotOpened
from bioengine_contract.package import read_package
from bioengine_contract.trust import check_trust

from bioengine_runner.lean_import import lean_import_of_core
from bioengine_runner.loading.records import Record, Records
from bioengine_runner.reasons import in_short
from bioengine_runner.rundir import Boot
from bioengine_runner.verify import verify_package

if TYPE_CHECKING:
    from bioengine_runner.inference import Pipeline

logger = logging.getLogger(__name__)


class Opening:
    """The opening of one package, which begins at once."""

    def __init__(
        self,
        name: str,
        record: Record,
        records: Records,
        folder: Path,
        weight_formats: Sequence[str],
        boot: Boot,
        card: str = "",
    ) -> None:
        """
        Args:
            name: of the Triton model.
            record, records: of this process, and where it stands.
            folder: of the package.
            weight_formats: those that may be opened.
            boot: this start of Triton.
            card: the number of the one GPU that the process sees, where there are several.
        """
        self._card = card
        self._name = name
        self._record = record
        self._records = records
        self._folder = folder
        self._weight_formats = list(weight_formats)
        self._boot = boot
        self._opened: tuple[Manifest, Pipeline] | None = None
        self._problem: RequestError | None = None
        self._thread = threading.Thread(target=self._run, name="opening", daemon=True)
        self._thread.start()

    def result(self) -> tuple[Manifest, Pipeline]:
        """The opened package, once it is. Raises RequestError where it could not be opened."""
        self._thread.join()
        if self._problem is not None:
            raise RemoteError(str(self._problem), self._problem.code)
        assert self._opened is not None
        return self._opened

    def _run(self) -> None:
        try:
            try:
                self._opened = self._open()
                self._tell(self._opened[1])
            except BaseException as error:  # sys.exit() in a package's code as well
                self._problem = self._reason(error)
                self._records.failed(self._name, self._record, str(self._problem), self._problem.code)
        except BaseException:
            # Nobody can be told, as on a full disk: without a process, the loader does not wait for ever.
            logger.exception("What came of opening the package could not be recorded")
            os._exit(1)

    def _tell(self, pipeline: Pipeline) -> None:
        """Record what was opened, and how much memory it holds on a card; again whenever that changes. Raises OSError."""
        opened = pipeline.opened
        device = f"cuda:{self._card}" if self._card and opened.device == "cuda:0" else opened.device
        self._records.opened(self._name, self._record, opened.weight_format, device, opened.details, pipeline.gpu_memory)
        pipeline.when_memory_changes(lambda: self._tell(pipeline))

    def _open(self) -> tuple[Manifest, Pipeline]:
        # Heavy, and a part of what can fail: it brings torch and bioimageio.
        with lean_import_of_core():
            from bioengine_runner.inference import Pipeline

        package = read_package(self._folder, is_default=True)
        # Once more, after who had it loaded: nothing of a package is run that is not trusted, or not what it was at import.
        for name in self._weight_formats:
            check_trust(package.manifest, name, self._boot.trusted)
        verify_package(package, self._weight_formats)
        return package.manifest, Pipeline(package, self._weight_formats, self._boot)

    def _reason(self, error: BaseException) -> RequestError:
        if isinstance(error, RequestError):
            return error
        logger.error("The package in %s cannot be opened", self._folder, exc_info=error)
        return ModelNotOpened(self._folder.parent.name, in_short(error).replace(f"{self._folder}/", ""))
