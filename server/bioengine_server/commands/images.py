"""`run` and `demo`: models on image files, through a running server, as any client does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from bioengine_server.commands.shared import HomeOption, console, load_settings, told

UrlOption = Annotated[
    Optional[str], typer.Option("--server-url", help="Another server than the one of BIOENGINE_HOST and BIOENGINE_PORT.")
]


def run(
    id: Annotated[str, typer.Argument(help="The model's id.")],
    images: Annotated[list[Path], typer.Argument(help=".npy, .tif or .png files; one for each input of the model, or many.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, or a folder.")],
    axes: Annotated[Optional[str], typer.Option(help='The images\' axes, such as "yx" or "zyx".')] = None,
    weights: Annotated[Optional[str], typer.Option(help="onnx or torchscript.")] = None,
    all_outputs: Annotated[bool, typer.Option("--all-outputs", help="Write every output, not the first alone.")] = False,
    server_url: UrlOption = None,
) -> None:
    """Run a model on images through the running server."""
    from bioengine_server.images.client import ModelClient
    from bioengine_server.images.runs import plan_runs, run_on_files

    settings = load_settings()
    with told(), ModelClient(server_url or settings.url, settings.run_timeout) as client:
        with console.status(f"Asking for {id} ..."):
            model = client.describe(id)
        for job in plan_runs(images, model.inputs, output):
            with console.status(f"Running {id} on {job.name} ..."):
                report = run_on_files(client, model, job, axes=axes, weights=weights, all_outputs=all_outputs)
            for written in report.written:
                console.print(f"{written.file}: {written.shape} {written.dtype}, {report.seconds:.2f} s", markup=False)
            if report.left_out:
                console.print(f"  not written: {', '.join(report.left_out)} (--all-outputs writes them)", markup=False)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("bioengine-demo"),
    home: HomeOption = None,
    server_url: UrlOption = None,
) -> None:
    """Draw nuclei, segment them with the model that comes with the project, and write the pictures.

    Uses the running server; where there is none, starts one for as long as it takes.
    """
    from bioengine_server.demo.session import running_server
    from bioengine_server.demo.show import segment_drawing

    settings = load_settings(home=home)
    with told():
        with console.status("Looking for a server ..."), running_server(settings, server_url) as url:
            score = segment_drawing(url, output)
    console.print(f"Wrote {output}/input.png, mask.png and overlay.png", markup=False)
    console.print(f"Dice against the drawing: {score:.3f}")
