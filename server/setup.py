"""The parts of the server's distribution that come from elsewhere in the checkout; the rest is in pyproject.toml.

pip wheel --no-deps --wheel-dir wheels ./contract ./server ./model_runner
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "deploy"))

from distribution import contract, copy_checkout, requirements, version


class BuildWithCheckout(build_py):
    """Adds what the installed command builds the other environments of."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)  # an earlier build's files would get into the wheel
        super().run()
        copy_checkout(Path(self.build_lib) / "bioengine_server" / "checkout")


setup(
    version=version(),
    # imjoy-rpc is left out: what it asks of websockets contradicts Hypha. The installed command installs it beside.
    install_requires=[contract(), *requirements("server/requirements.txt")],
    cmdclass={"build_py": BuildWithCheckout},
)
