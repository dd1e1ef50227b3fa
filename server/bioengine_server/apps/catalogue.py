"""Which apps there are. Their code, and Triton's configuration of each, is in the model runner (`bioengine_runner.apps`)."""

from __future__ import annotations

from dataclasses import dataclass

from bioengine_server.apps.errors import NoSuchApp
from bioengine_server.project import PROJECT

APP_MODELS = PROJECT / "model_runner" / "bioengine_runner" / "app_models"
"""The folders of Triton models that are copied to install an app."""

_BY_AUTHOR = "Weights have a licence of their own, from whoever published them."


@dataclass(frozen=True)
class App:
    """An app.

    `triton_model`: the name by which clients call it. `environment`: the environment in which it runs, if it is not the model
    runner's. `weights`: the name of the file in the app; `{}` stands for a name that the admin gives, of which there may be
    several. `takes`: what the admin's file is. `licence`: what is told before it is installed.
    """

    name: str
    triton_model: str
    title: str
    environment: str | None
    weights: str
    takes: str
    licence: str

    @property
    def has_several(self) -> bool:
        return "{}" in self.weights


APPS = {
    app.name: app
    for app in (
        App(
            name="cellpose",
            triton_model="cellpose-python",
            title="Cellpose 3",
            environment="labels",
            weights="{}.pth",
            takes="a file with the weights of a Cellpose 1, 2 or 3 network, such as cyto3 or one that you have trained",
            licence=(
                f"Cellpose itself has the licence BSD-3-Clause. {_BY_AUTHOR} Those that Cellpose's authors publish were trained "
                "on images that may not be used commercially: read their terms, and cite Cellpose."
            ),
        ),
        App(
            name="stardist",
            triton_model="stardist",
            title="StarDist, 2D",
            environment="labels",
            weights="network.onnx",
            takes="an ONNX file of a 2D StarDist network for images with one channel, or a stored model that has one",
            licence=f"StarDist itself has the licence BSD-3-Clause. {_BY_AUTHOR} Read its terms, and cite StarDist.",
        ),
        App(
            name="bestfitting",
            triton_model="bestfitting-inceptionv3-single-cell",
            title="HPA Bestfitting InceptionV3, single cells",
            environment=None,
            weights="network.onnx",
            takes="the network's ONNX file, or the stored model of bioimage.io that has it",
            licence=f"{_BY_AUTHOR} Read its terms, and cite the authors of the network.",
        ),
    )
}


def app_named(name: str) -> App:
    """An app by its name, or by that of its Triton model. Raises NoSuchApp."""
    for app in APPS.values():
        if name in (app.name, app.triton_model):
            return app
    raise NoSuchApp(name, list(APPS))
