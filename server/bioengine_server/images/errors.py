"""Errors of image files, and of the connection to the server that runs models on them.

    image file -> image -> arrays that fit -> server -> results -> files
               |         |                  |         |
               |         |                  |         UnwritableImage, UnfitFormat, NoFormat, WrongKind, SameOutput, OutputIsInput
               |         |                  BadServerUrl, WrongProtocol, UntrustedCertificate, NotABioEngine, ConnectionLost
               |         UnclearAxes, WrongChannels, WrongValues, WrongImageCount
               UnreadableImage

Each message says what to do at the command line, or with the file, without any Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import shown


class NoServer(BioEngineError):
    code = "no_server"

    def __init__(self, url: str) -> None:
        super().__init__(
            f"No BioEngine answers at {url}. Start one in another terminal with `./bioengine up`, or give another server's URL "
            "with --server-url."
        )


class NotConnected(BioEngineError):
    code = "not_connected"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"The server at {url} refused the connection: {reason} Commands take the token from BIOENGINE_TOKEN.")


class RunFailed(BioEngineError):
    """The server could not serve a request."""

    code = "run_failed"


class ImageError(BioEngineError):
    """An error of an image file."""

    code = "image_error"


class UnreadableImage(ImageError):
    code = "unreadable_image"

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"The image {shown(file, 300)} cannot be read: {reason}.")


class UnwritableImage(ImageError):
    code = "unwritable_image"

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"The result {shown(file, 300)} cannot be written: {reason}.")
        self.reason = reason


class UnfitFormat(UnwritableImage):
    """This kind of file cannot contain the result, or its encoder cannot write it."""

    code = "unfit_format"


class NoFormat(ImageError):
    """The output's suffix is not a supported format."""

    code = "no_format"

    def __init__(self, output: Path, formats: Sequence[str]) -> None:
        super().__init__(
            f"Results are not written as {output.suffix} ({shown(output, 300)}). Give a file that ends in {', '.join(formats)}, "
            f"or a folder; for a folder with this name, write {shown(output, 300)}/ with a slash."
        )


class WrongKind(ImageError):
    """A file of this kind cannot contain this output of the model."""

    code = "wrong_kind"

    def __init__(self, file: Path, output: str, axes: str, reason: str, formats: Sequence[str]) -> None:
        super().__init__(
            f"{shown(file, 300)} cannot contain the output '{shown(output)}' of the model (axes {axes}): {reason}. Nothing was "
            f"run. Give a file that ends in {' or '.join(formats)}, or a folder, with -o."
        )


class NoName(ImageError):
    """The output's name lacks a format after its dot, or a name before it."""

    code = "no_name"

    def __init__(self, output: Path) -> None:
        lacks = "no format after its dot" if output.name.endswith(".") else "a format but no name"
        likely = output.with_name(f"result{output.name}" if output.name.startswith(".") else f"{output.name}tif")
        super().__init__(
            f"The output {shown(output, 300)} has {lacks}. Write a file such as {shown(likely, 300)}; for a folder with this "
            f"name, write {shown(output, 300)}/ with a slash."
        )


class SameOutput(ImageError):
    """`images`: the images of the runs, or of the single run, whose outputs would be the same file."""

    code = "same_output"

    def __init__(self, file: Path, images: Sequence[str]) -> None:
        if len(images) == 1:
            super().__init__(
                f"Two outputs of the model for {shown(images[0], 200)} would be the same file, {shown(file, 300)}, by its name "
                "or a link. Nothing was run. Choose another output with -o, or leave out --all-outputs."
            )
            return
        twice = len(set(images)) == 1
        what = f"{shown(images[0], 200)} is given twice, and its results" if twice else f"The results of {_listed(images)}"
        remedy = "Give it only once" if twice else "Run them one by one, each with its own output"
        super().__init__(f"{what} would be the same file, {shown(file, 300)}. Nothing was run. {remedy}.")


def _listed(images: Sequence[str]) -> str:
    return " and of ".join(shown(image, 200) for image in images)


class OutputIsInput(ImageError):
    code = "output_is_input"

    def __init__(self, file: Path, image: Path) -> None:
        same = "is one of the images" if file == image else f"is the same file as the image {shown(image, 300)}"
        super().__init__(
            f"The output {shown(file, 300)} {same}, and an image is never overwritten. Choose another output with -o."
        )


class WrongAxesCount(ImageError):
    """The list of axes does not have one entry for each image."""

    code = "wrong_axes_count"

    def __init__(self, axes: str, images: Sequence[str]) -> None:
        many = "one image" if len(images) == 1 else f"{len(images)} images"
        example = ",".join(["yx"] * len(images))
        super().__init__(
            f"--axes {shown(axes, 100)} names axes for {axes.count(',') + 1} images, but a run takes {many} "
            f"({shown(', '.join(images), 300)}). Give axes for each of these, in this order, such as --axes {example}; leave an "
            "entry empty to use the file's axes."
        )


def _the_image(name: str) -> str:
    return f"The image {shown(name, 200)}" if name else "The image"


class UnclearAxes(ImageError):
    """`hint`: axes with which it works, and their meaning; None if there are none. `colours`: whether the last axis is probably a
    colour axis.
    """

    code = "unclear_axes"

    def __init__(
        self,
        shape: Sequence[int],
        given: str,
        wanted: str,
        hint: tuple[str, str] | None,
        colours: bool = False,
        name: str = "",
    ) -> None:
        axes = f"the axes {given!r}" if given else "axes that its file does not name"
        if hint:
            advice = f"Name the image's axes with --axes, one letter for each: --axes {hint[0]}{hint[1]}."
        elif colours:
            advice = (
                f"Its last axis has {shape[-1]} values, like a colour image: save one of the colours, or their mean, as a "
                "separate image. If they are not colours, name the axes with --axes, one letter for each."
            )
        else:
            advice = (
                "Such an image does not fit with any order of its axes. Expected one file for each image with the model's axes; "
                "if the file names them wrongly, give them with --axes."
            )
        super().__init__(
            f"{_the_image(name)} has the shape {tuple(shape)} and {axes}, but the model's axes are {wanted!r}. {advice}"
        )


class WrongChannels(ImageError):
    code = "wrong_channels"

    def __init__(self, channels: int, wanted: int, axes: str, hint: tuple[str, str] | None, name: str = "") -> None:
        advice = f", or use --axes {hint[0]}{hint[1]}" if hint else ""
        many = "channel" if wanted == 1 else "channels"
        super().__init__(
            f"{_the_image(name)} has {channels} channels (its axes are {axes!r}), but the model takes {wanted} {many}. Save the "
            f"{many} to be used as an image of {'its' if wanted == 1 else 'their'} own{advice}."
        )


class WrongValues(ImageError):
    """The model's dtype cannot represent some values. `others`: how many of them are NaN or infinite."""

    code = "wrong_values"

    def __init__(
        self, dtype: str, low: float, high: float, others: int, wanted: str, limits: tuple[int, int], name: str = ""
    ) -> None:
        beside = f" and {others} that are NaN or infinite" if others else ""
        super().__init__(
            f"{_the_image(name)} has {dtype} values from {low:.6g} to {high:.6g}{beside}, but the model takes {wanted}: whole "
            f"numbers from {limits[0]} to {limits[1]}. Scale it to the range of the images that the model was made for, and save "
            f"it as {wanted}; in Fiji, Image > Type scales what is displayed from black to white to the whole range of the type "
            "that you choose."
        )


class WrongImageCount(ImageError):
    """`needed`, `optional`: the names of the model's inputs. `is_folder`: whether the output is a folder, for several runs."""

    code = "wrong_image_count"

    def __init__(self, given: int, needed: Sequence[str], optional: Sequence[str], output: Path, is_folder: bool) -> None:
        names = shown(", ".join(needed), 300)
        if optional:
            names += f"; optional, where -o names a file: {shown(', '.join(optional), 300)}"
        advice = (
            "Give as many for each run" if is_folder else "Give one file for each input; for several runs, give a folder with -o"
        )
        super().__init__(
            f"The model takes {len(needed)} image{'' if len(needed) == 1 else 's'} at a time ({names}), but {given} "
            f"{'was' if given == 1 else 'were'} given for {shown(output, 300)}. {advice}."
        )


class BadServerUrl(BioEngineError):
    code = "bad_server_url"

    def __init__(self, url: str, reason: str, likely: str = "") -> None:
        instead = f"Write {shown(likely, 200)}" if likely else "Expected a URL such as http://127.0.0.1:9520"
        super().__init__(f"{shown(url, 200)!r} is not the URL of a server: {reason}. {instead}.")


class WrongProtocol(BioEngineError):
    """The server uses http, but the URL says https, or the other way round."""

    code = "wrong_protocol"

    def __init__(self, url: str, right: str) -> None:
        wanted, spoken = urlsplit(url).scheme, urlsplit(right).scheme
        super().__init__(
            f"What answers at {shown(url, 200)} speaks {spoken}, not {wanted}. Use {shown(right, 200)} (--server-url)."
        )


class UntrustedCertificate(BioEngineError):
    code = "untrusted_certificate"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"The certificate of {shown(url, 200)} is not one that this machine trusts ({shown(reason, 200)}). Use the name that "
            "it is for; if the server has its own certificate authority, ask its admin for the authority's certificate, and set "
            "SSL_CERT_FILE to that file."
        )


class NotABioEngine(BioEngineError):
    code = "not_a_bioengine"

    def __init__(self, url: str, what: str) -> None:
        super().__init__(
            f"What answers at {shown(url, 200)} is not a usable BioEngine: {what}. Give the server's own URL with --server-url."
        )


class ConnectionLost(BioEngineError):
    code = "connection_lost"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"The server at {shown(url, 200)} stopped answering ({shown(reason, 200)}). Check that it is running, then run this "
            "again."
        )
