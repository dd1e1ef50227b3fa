"""Open the description of a stored package, with the weights that the store has converted."""

from __future__ import annotations

from typing import Any

from bioengine_contract.manifest import RDF
from bioengine_contract.package import Package
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.weights import CONVERTED_OPSET
from bioimageio.spec import InvalidDescr, ValidationContext, load_description
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.adapted import adapt_steps

Description = v0_4.ModelDescr | v0_5.ModelDescr


def open_description(package: Package) -> Description:
    """The description, with steps that bioimageio.core can run. Raises PackageUnreadable."""
    description = stored_description(package)
    try:
        adapt_steps(description)
    except ValueError as error:
        raise PackageUnreadable(package.id, str(error)) from error
    return description


def stored_description(package: Package) -> Description:
    """The description, without the checks for every file: the store does not keep all files of a downloaded package.

    Raises PackageUnreadable.
    """
    # The path of a folder in our own store, never text from a client: `load_description` would also download a URL.
    description: Any = load_description(package.folder / RDF, perform_io_checks=False)
    if isinstance(description, InvalidDescr) or not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise PackageUnreadable(package.id, "its rdf.yaml does not describe a model any more")
    weights = package.manifest.weights.get("onnx")
    if weights is not None and weights.converted_from is not None:
        entry = v0_4.OnnxWeightsDescr if isinstance(description, v0_4.ModelDescr) else v0_5.OnnxWeightsDescr
        content = {
            "source": weights.source,
            "sha256": weights.sha256,
            "opset_version": CONVERTED_OPSET,
            "parent": weights.converted_from,
        }
        with ValidationContext(root=package.folder, perform_io_checks=False):
            description.weights.onnx = entry.model_validate(content)
    return description
