"""What the README and the docs show, run as printed; only the server's address is the test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bioengine_server.demo.nuclei import draw
from bioengine_server.images.files import write_image
from bioengine_server.images.image import Image

from tests.clients.ahead import ahead, selected
from tests.clients.browser import run_pages
from tests.stack.harness import ROOT, USUAL_URL, Stack, python
from tests.tiers import cases

BLOCK = re.compile(r"^(?P<comment><!-- not run: [^\n]+ -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    runs: bool
    prints: str | None
    """What a program prints, where the page says so in a block of text after it."""


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 1
            after = BLOCK.match(text, block.end() + 2)
            prints = after["code"] if after and after["language"] == "text" else None
            found.append(Block(page.name, line, block["language"], block["code"], block["comment"] is None, prints))
    return found


PROGRAMS = [block for block in blocks() if block.language == "python" and block.runs]
WEB_PAGES = [block for block in blocks() if block.language == "html" and block.runs]
COMMANDS = sorted({block.page for block in blocks() if block.language == "sh" and block.runs})


def test_every_block_says_what_it_is() -> None:
    assert {block.language for block in blocks()} <= {"html", "python", "sh", "text", "yaml"}
    assert PROGRAMS and WEB_PAGES and COMMANDS


def test_programs_use_a_model_that_is_always_there_and_say_what_went_wrong() -> None:
    for block in [*PROGRAMS, *WEB_PAGES]:
        where = f"{block.page}, line {block.line}"
        assert set(re.findall(r"""\bmodel_id"?: "([^"]+)""", block.code)) <= {"drawn-nuclei"}, where
        if re.search(r"\bexecute(_model)?\(|\bpost\(", block.code):
            assert re.search(r"""\[?["']?\berror\b""", block.code), where


def environment_of(code: str) -> str:
    """Where the libraries are that a program imports."""
    if "imjoy_rpc" in code:
        return "client-imjoy"
    return "client-pyotritonclient" if any(name in code for name in ("tritonclient", "requests")) else "client-hypha"


@pytest.fixture(scope="module")
def docs_token(token_stack: Stack) -> str:
    return token_stack.token("docs")


Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, stack: Stack, token_stack: Stack, docs_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Block], Run]]:
    """How the docs' programs ended; those that have a token run where one is needed."""

    def run(block: Block) -> Run:
        address, folder = USUAL_URL.removeprefix("http://"), tmp_path_factory.mktemp("program")
        assert address in block.code
        with_token = "BIOENGINE_TOKEN" in block.code
        url = (token_stack if with_token else stack).url.removeprefix("http://")
        (folder / "program.py").write_text(block.code.replace(address, url))
        variables = {**os.environ, "BIOENGINE_TOKEN": docs_token if with_token else ""}
        command = [python(environment_of(block.code)), "program.py"]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)

    with ahead(run, selected(request, "test_program", "block")) as outcome:
        yield outcome


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"{block.page}-{block.line}")
def test_program(runs: Callable[[Block], Run], block: Block) -> None:
    run = runs(block)
    assert run.returncode == 0, run.stderr
    # A program that prints shows a result; the published examples return one.
    assert run.stdout.strip() or "print(" not in block.code
    # hypha-rpc 0.21 prints a warning of its own when it disconnects.
    assert block.prints is None or _words(block.prints) in _words(run.stdout)


@pytest.mark.extended
def test_what_goes_wrong_is_printed_and_is_no_error_of_the_program(stack: Stack, tmp_path: Path) -> None:
    """With an image of seven channels for a model of one: those of the docs, and the one that `up` prints."""
    printed = re.search(r"Try it:\n\n(import numpy.*?result\[\"error\"\]\))$", stack.log, re.DOTALL | re.MULTILINE)
    assert printed is not None and '"drawn-nuclei"' in printed[1], stack.log
    programs = {  # one of each page and library
        (block.page, environment_of(block.code)): block.code
        for block in PROGRAMS
        if "(1, 1, 256, 256))\n" in block.code and "BIOENGINE_TOKEN" not in block.code
    }
    assert len(programs) > 4
    running = []
    for number, code in enumerate([printed[1], *programs.values()]):
        file = tmp_path / f"{number}.py"
        file.write_text(code.replace(USUAL_URL, stack.url).replace("(1, 1, 256, 256)", "(1, 7, 256, 256)"))
        command = [python(environment_of(code)), str(file)]
        running.append((code, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    for code, process in running:
        said, _ = process.communicate(timeout=300)
        assert "The model" in said and "KeyError" not in said and "Traceback" not in said, f"{code}\n{said}"


def _words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def pages(request: pytest.FixtureRequest, stack: Stack) -> dict[Block, dict[str, Any]]:
    """What became of the docs' web pages, in one browser."""
    found = [block for (block,) in selected(request, "test_web_page", "block")]
    shown = "document.getElementById('mask').textContent"
    until = f"{shown}.startsWith('Waiting') ? null : {shown}"
    return dict(zip(found, run_pages([block.code for block in found], stack, until)))


@pytest.mark.parametrize("block", WEB_PAGES, ids=lambda block: f"{block.page}-{block.line}")
def test_web_page(pages: dict[Block, dict[str, Any]], block: Block) -> None:
    report = pages[block]
    assert report["result"] == f"float32 1,2,256,256, {2 * 256 * 256} values" and not report["errors"], report


@pytest.mark.parametrize("page", cases(COMMANDS, core=["README.md"]))
def test_commands(stack: Stack, packages: Path, tmp_path: Path, page: str) -> None:
    """All commands of a page, in order, for a user who has just downloaded a package, has an image, and has a server running."""
    (tmp_path / "bioengine").symlink_to(ROOT / "bioengine")
    write_image(tmp_path / "image.tif", Image(draw(0).image, "yx"))
    downloads = tmp_path / "Downloads"
    downloads.mkdir()
    shutil.make_archive(str(downloads / "conscientious-seashell"), "zip", packages / "conscientious-seashell")
    script = "\n".join(block.code for block in blocks() if block.page == page and block.language == "sh" and block.runs)
    script = script.replace(USUAL_URL, stack.url)
    environment = {key: value for key, value in os.environ.items() if key != "BIOENGINE_HOME"}
    environment |= {"HOME": str(tmp_path), "BIOENGINE_PORT": str(stack.port)}
    run = subprocess.run(["sh", "-euxc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


PUBLISHED = [("imjoy", "async"), ("imjoy", "sync"), ("hypha", "async"), ("hypha", "sync")]


@pytest.fixture(scope="module")
def published(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Run]]:
    """How the published page's two programs ended, as they are in the docs, and with the other library's import."""

    def run(library: str, mode: str) -> Run:
        programs = [block.code for block in PROGRAMS if block.page == "clients.md" and "imjoy_rpc" in block.code]
        source = next(code for code in programs if ("await" in code) == (mode == "async"))
        if library == "hypha":
            source = source.replace("imjoy_rpc.hypha", "hypha_rpc")
        call = "asyncio.run(main())" if mode == "async" else "main()"
        source = source.replace(f"    {call}\n", f"    mask = {call}\n    assert mask.shape == (1, 2, 256, 256), mask.shape\n")
        source += "    assert 0 < mask.mean() < 1, mask.mean()\n    print('a mask')\n"
        folder = tmp_path_factory.mktemp("published")
        (folder / "program.py").write_text(source.replace(USUAL_URL, stack.url))
        command = [python(f"client-{library}"), "program.py"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)

    with ahead(run, selected(request, "test_the_published_example_gives_a_mask", "library", "mode")) as outcome:
        yield outcome


@pytest.mark.parametrize(("library", "mode"), cases(PUBLISHED, core=[("imjoy", "sync")]))
def test_the_published_example_gives_a_mask(published: Callable[[str, str], Run], library: str, mode: str) -> None:
    run = published(library, mode)
    assert run.returncode == 0 and "a mask" in run.stdout, run.stderr
