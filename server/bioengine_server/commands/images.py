"""`run` and `demo`: run models on image files, through a running server, like any other client."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from bioengine_contract.errors import BioEngineError
from bioengine_contract.weights import RUNNABLE

from bioengine_server.commands.shared import HomeOption, console, fail, load_settings, told
from bioengine_server.untrusted import shown

if TYPE_CHECKING:
    from bioengine_server.images.client import ModelClient
    from bioengine_server.images.model import Model
    from bioengine_server.images.plan import Job
    from bioengine_server.images.runs import Options, Report

UrlOption = Annotated[
    Optional[str],
    typer.Option("--server-url", help="URL of the server, if it is not the one at BIOENGINE_HOST and BIOENGINE_PORT."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that already exist.")]


def run(
    id: Annotated[str, typer.Argument(help="The model's id.")],
    images: Annotated[list[Path], typer.Argument(help=".npy, .tif or .png files; one for each input of the model, or many.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File to write (.tif, .npy, .png, .csv), or a folder for IMAGE_MODEL.tif."
        ),
    ],
    axes: Annotated[
        Optional[str],
        typer.Option(
            help='The images\' axes, such as "yx" or "zyx"; along "b", planes or frames are run one by one: "byx". For '
            'several inputs also a list, such as "yx,byx".'
        ),
    ] = None,
    weights: Annotated[Optional[str], typer.Option(help=f"One of {', '.join(RUNNABLE)}. \\[the fastest that works]")] = None,
    all_outputs: Annotated[bool, typer.Option("--all-outputs", help="Write all outputs, not only the first one.")] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Write the number of each object (StarDist, Cellpose), not the network's output.")
    ] = False,
    series: Annotated[
        Optional[int],
        typer.Option(min=1, help="Which image of a TIFF with several images to use, counted from 1; by default the largest."),
    ] = None,
    overwrite: OverwriteOption = False,
    server_url: UrlOption = None,
) -> None:
    """Run a model on images through the running server.

    If the output is a folder, the result of x.tif is x_MODEL.tif. Outputs without pixels, such as scores, are written as .csv.

    The input images are never overwritten, and other files only with --overwrite.

    If some images fail, the others are still run; the failed ones are listed at the end, and the exit status is 1.
    """
    from bioengine_server.home_in_use import usual_url
    from bioengine_server.images.client import ModelClient
    from bioengine_server.images.plan import check_output_name, plan_runs
    from bioengine_server.images.runs import Options

    settings = load_settings()
    options = Options(axes, weights.lower() if weights else None, series, overwrite, labels)
    failed: dict[str, str] = {}
    with told():
        check_output_name(output)
        with ModelClient(server_url or usual_url(settings), settings.run_timeout) as client:
            with console.status(f"Asking for {shown(id)} ..."):
                model = client.describe(id)
            if labels:
                model = model.with_labels
            jobs = plan_runs(images, model, output, all_outputs, overwrite)
            _tell_tables(model, jobs)
            for job in jobs:
                try:
                    report = _run_shown(client, model, job, options)
                except BioEngineError as error:
                    if len(jobs) == 1 or not _is_of_one_image(error):
                        raise
                    failed[", ".join(map(str, job.images))] = str(error)
                else:
                    _tell(report)
    if failed:
        lines = [f"{len(failed)} of {len(jobs)} failed:", *(f"  {name}: {reason}" for name, reason in failed.items())]
        fail("\n".join(lines))


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("bioengine-demo"),
    overwrite: OverwriteOption = False,
    home: HomeOption = None,
    server_url: UrlOption = None,
) -> None:
    """Draw synthetic nuclei, segment them with a bundled model, and write the images.

    Uses the running server. If there is none, starts one for the demo.
    """
    from bioengine_server.demo.session import running_server
    from bioengine_server.demo.show import PICTURES, segment_drawing
    from bioengine_server.output_file import check_outputs

    settings = load_settings(home=home)
    with told():
        check_outputs([output / name for name in PICTURES], overwrite)
        with console.status("Looking for a server ..."), running_server(settings, server_url) as url:
            score = segment_drawing(url, output, overwrite)
    console.print(f"Wrote {shown(output, 500)}/input.png, mask.png and overlay.png", markup=False, soft_wrap=True)
    console.print(f"Dice against the drawing: {score:.3f}")


def _is_of_one_image(error: BioEngineError) -> bool:
    """Whether an error concerns only one image, so that others may succeed."""
    from bioengine_server.images.errors import ConnectionLost

    return not isinstance(error, ConnectionLost)


def _run_shown(client: ModelClient, model: Model, job: Job, options: Options) -> Report:
    """Run a model, with a line that says how far it is; Ctrl-C ends it, as everybody's run ends whose client leaves."""
    from bioengine_server.images.runs import run_on_files

    what = f"Running {shown(model.id)} on {shown(job.name)}"
    with console.status(f"{what} ...") as status:
        return run_on_files(
            client, model, job, options, lambda words: status.update(f"{what}: {words} ..." if words else f"{what} ...")
        )


def _tell_tables(model: Model, jobs: list[Job]) -> None:
    """Report before the run which outputs are not images, so that a user who expects images can stop it."""
    for number, file in jobs[0].outputs.items():
        spec = model.outputs[number]
        if not spec.is_image:
            text = (
                f"The output '{shown(spec.name)}' (axes {spec.axes}) is not an image: its numbers are written as {file.suffix}."
            )
            console.print(text, markup=False, soft_wrap=True)


def _tell(report: Report) -> None:
    for written in report.written:
        text = f"{shown(written.file, 500)}: {written.shape} {written.dtype}, {report.seconds:.2f} s"
        console.print(text, markup=False, soft_wrap=True)
    if report.left_out:
        text = f"  not written: {shown(', '.join(report.left_out), 500)} (--all-outputs writes them)"
        console.print(text, markup=False, soft_wrap=True)
    for note in report.notes:
        print(f"bioengine: note: {shown(note, 2000)}", file=sys.stderr, flush=True)
