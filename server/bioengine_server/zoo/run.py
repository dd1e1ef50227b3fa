"""Fetch, import and test models, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from bioengine_contract.errors import BioEngineError
from bioengine_contract.ids import parse_model_id
from bioengine_contract.trust import unusable_weights, usable_weights

from bioengine_server.settings import Settings
from bioengine_server.store import conversion
from bioengine_server.store.errors import StoreError
from bioengine_server.store.halo import measuring_store
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.package_test import test_package
from bioengine_server.store.service import StoreService
from bioengine_server.zoo.outcome import Outcome


def outcome_of(asked: str, package: Path | None, settings: Settings, keep: bool) -> Outcome:
    """What comes of one model.

    Args:
        asked: an id of the collection; or, with `package`, its name in the report.
        package: a folder or .zip to import.
        settings: with the store to use.
        keep: whether a model that was not stored before stays in the store.
    """
    started = time.monotonic()
    store = measuring_store(settings)
    stored_before = {model.place for model in store.models()}
    name = asked if package is None else None  # by which what is new can be found
    try:
        try:
            if package is None:
                model = _stored(asked, settings, store)
            else:
                name = store.import_package(package).place
                model = _converted(name, settings, store)
        except BioEngineError as error:
            outcome = Outcome(asked=asked, status="not imported", reason=str(error))
        else:
            outcome = _tested(asked, model, settings)
    finally:  # also where the user interrupts it, as in the middle of a conversion
        if not keep and name is not None:
            with contextlib.suppress(BioEngineError):
                if (place := store.find(name).place) not in stored_before:
                    store.remove(place)
    return outcome.model_copy(update={"seconds": time.monotonic() - started})


def _stored(id: str, settings: Settings, store: ModelStore) -> StoredModel:
    """A model of the collection, which is downloaded, and converted, if it is not stored. Raises BioEngineError."""
    parse_model_id(id)
    if not store.contains(id):
        asyncio.run(StoreService(settings).fetch(id, caller=None))
    return store.find(id)


def _converted(place: str, settings: Settings, store: ModelStore) -> StoredModel:
    """A model that has been imported, converted if it has to be. Raises BioEngineError."""
    model = store.find(place)
    if conversion.is_wanted(model.manifest):
        with contextlib.suppress(StoreError):  # the reason is kept beside the package
            model = conversion.convert(model, store, settings)
    return model


def _tested(asked: str, model: StoredModel, settings: Settings) -> Outcome:
    manifest = model.manifest
    formats = (*manifest.weights, *manifest.unsupported_weights)
    ways = usable_weights(manifest, settings.trusted)
    known = Outcome(
        asked=asked,
        id=manifest.id,
        version=manifest.version,
        formats=formats,
        way=manifest.named_weights(ways[0]) if ways else "",
    )
    if not ways:
        reasons = [f"{name}: {why}" for name, why in unusable_weights(manifest, settings.trusted).items()]
        return known.model_copy(update={"reason": "; ".join(filter(None, (conversion.refusal(model), *reasons)))})
    try:
        results = test_package(model, settings)
    except StoreError as error:
        return known.model_copy(update={"status": "fails its test", "reason": str(error)})
    failed = [result for result in results if result.status != "passed"]
    return known.model_copy(
        update={
            "status": "fails its test" if failed else "runs",
            "test": ", ".join(f"{result.weights} {result.status}" for result in results),
            "tiles": "; ".join(dict.fromkeys(result.tiles for result in results if result.tiles)),
            "reason": "; ".join(f"{result.weights}: {result.detail}" for result in failed),
        }
    )
