"""The package as users get it: a wheel that is built from the checkout and installed into an environment of its own."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted._version import __version__
from rtmp_twisted.settings import Settings
from rtmp_twisted.summary import features

ROOT = Path(__file__).parent.parent
TWISTD = "from twisted.scripts.twistd import run; run()"


def run(*command: str | Path, cwd: Path) -> str:
    """Returns what the command prints; it must succeed. It has no PYTHONPATH, so it does not find this checkout."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RTMP_TWISTED"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def copy_of_checkout(target: Path) -> None:
    target.mkdir()
    for name in "rtmp_twisted", "twisted":
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache", "*.so")
        )
    for name in "setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.md":
        shutil.copy(ROOT / name, target)


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, as ``python -m build`` makes them: the sdist from the checkout, the wheel from the
    sdist. With the setuptools of the running environment (the extra ``test`` has it): no network is needed."""
    copy_of_checkout(folder / "source")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source", cwd=folder)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


class WheelTests(SynchronousTestCase):
    def test_built_and_installed(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        wheel, sdist = build(folder)
        self.check_content(wheel)
        self.check_sdist(sdist)

        # The dependencies come from the running environment. A .pth file names only their folder, so that the .pth
        # files in it have no effect: one of them is that of an editable install of this package.
        environment = folder / "environment"
        venv.create(environment, with_pip=False)
        python = environment / "bin" / "python"
        [packages] = environment.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--no-deps",
            "--no-index",
            "--quiet",
            wheel,
            cwd=folder,
        )

        where = run(python, "-c", "import rtmp_twisted; print(rtmp_twisted.__file__)", cwd=folder)
        self.assertTrue(where.startswith(str(packages)), where)
        self.assertRegex(run(python, "-c", TWISTD, "--help", cwd=folder), r"(?m)^    rtmp  +An RTMP")
        self.assertIn("--rtmp-port=", run(python, "-c", TWISTD, "rtmp", "--help", cwd=folder))
        for command in (python.with_name("rtmp-twisted"), "version"), (python, "-c", TWISTD, "rtmp", "--version"):
            self.assertEqual(run(*command, cwd=folder), f"rtmp-twisted {__version__}\n")

    def check_sdist(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        self.assertEqual({"LICENSE", "README.md", "setup.py", "setup.cfg", "pyproject.toml"} - names, set())
        self.assertEqual({str(file.relative_to(ROOT)) for file in (ROOT / "rtmp_twisted").rglob("*.py")} - names, set())
        self.assertIn("twisted/plugins/rtmp_twisted_plugin.py", names)

    def check_content(self, wheel: Path) -> None:
        names = set(ZipFile(wheel).namelist())
        self.assertLessEqual({"rtmp_twisted/py.typed", "rtmp_twisted/web/page/index.html"}, names)
        sources = {str(file.relative_to(ROOT)) for file in (ROOT / "rtmp_twisted").rglob("*.py")}
        self.assertEqual(sources - names, set())
        ours = {name for name in names if name.startswith("twisted/")}
        self.assertEqual(ours, {"twisted/plugins/rtmp_twisted_plugin.py"})
        self.assertEqual(
            {name.partition("/")[0] for name in names if ".dist-info/" not in name}, {"rtmp_twisted", "twisted"}
        )


class CompiledTests(SynchronousTestCase):
    """The list of modules in pyproject.toml that can be compiled."""

    def setUp(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
        self.modules: list[str] = settings["tool"]["rtmp-twisted"]["compiled"]

    def test_listed_modules_exist(self) -> None:
        for module in self.modules:
            self.assertTrue((ROOT / (module.replace(".", "/") + ".py")).exists(), module)

    def test_what_runs_is_what_was_asked_for(self) -> None:
        """With RTMP_TWISTED_COMPILE=1 ./tools/test runs these very tests against the compiled modules."""
        is_wanted = os.environ.get("RTMP_TWISTED_COMPILE") == "1"
        for module in self.modules:
            file = importlib.import_module(module).__file__
            assert file is not None
            self.assertEqual(file.endswith(".so"), is_wanted, file)
        [said] = [feature for feature in features(Settings()) if feature.name == "compiled"]
        self.assertEqual(said.on, is_wanted)


class MetadataTests(SynchronousTestCase):
    def test_dependencies_are_declared(self) -> None:
        """All that the package imports is in the standard library, in itself, or in install_requires."""
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        required = config["options"]["install_requires"].split("\n")
        declared = {line.split(">=")[0].strip().lower() for line in required if line}
        module_of = {"pyjwt": "jwt", "pyopenssl": "OpenSSL", "zope.interface": "zope", "attrs": "attr"}
        allowed = {module_of.get(name, name.replace("-", "_")) for name in declared} | {"attrs", "rtmp_twisted"}
        imported = {name.partition(".")[0] for file in (ROOT / "rtmp_twisted").rglob("*.py") for name in imports(file)}
        self.assertEqual(imported - allowed - sys.stdlib_module_names, set())

    def test_tools_can_be_run(self) -> None:
        for tool in [
            ".ci/run",
            ".ci/long",
            *(f"tools/{path.name}" for path in (ROOT / "tools").iterdir() if not path.suffix),
        ]:
            if (ROOT / tool).is_file():
                self.assertTrue(os.access(ROOT / tool, os.X_OK), tool)
                if "bash" in (ROOT / tool).read_text().splitlines()[0]:
                    run("bash", "-n", ROOT / tool, cwd=ROOT)

    def test_twisted_is_not_shadowed(self) -> None:
        found = [str(file.relative_to(ROOT)) for file in (ROOT / "twisted").rglob("__init__.py")]
        self.assertEqual(found, [])


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found
