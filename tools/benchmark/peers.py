"""The servers that can be measured: where they are found, how they are started, and their versions."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import scenarios
from .http import FORMATS
from .process import BenchError, self_signed

HOST = "127.0.0.1"
PROJECT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtmp-twisted-bench"
OURS = "rtmp-twisted"
NGINX = "nginx-rtmp"
NODE = "node-media-server"
BEFORE, AFTER = "before", "after"
"""The two checkouts of ``--against``: the other one, and the one that this tool belongs to."""

_PACKAGES = ("rtmp_twisted", "twisted")
_BUILD_FILES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
"""What makes up the package in a checkout, and what building it takes."""

_NGINX_CONFIGURATION = """\
{load}daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid nginx.pid;
error_log error.log;
events {{ worker_connections {files}; }}
rtmp {{
  server {{
    listen {host}:{port};
    chunk_size 4096;
{applications}
  }}
}}
"""

_NODE_PROGRAM = """\
const NodeMediaServer = require({module});
new NodeMediaServer({{
  bind: "{host}",
  rtmp: {{ port: {port}, chunk_size: 4096, gop_cache: true, ping: 30, ping_timeout: 60 }},
  http: {{ port: {web_port} }},
  auth: {{ play: false, publish: false, secret: "" }},
  record: {{ auto: false }},
  store: {{ path: "./data" }},
  notify: {{ url: "" }},
  logType: 1,
}}).run();
"""


@dataclass(frozen=True)
class Peer:
    """A server. ``command(directory, port)`` writes its configuration into ``directory`` and returns its command
    line; ``web_options(directory, port, secure)`` follow it where viewers come over HTTP or HTTPS, to that port, which
    is the other and one. ``formats`` are those that it serves over HTTP."""

    name: str
    version: str
    command: Callable[[Path, int], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    relays: Callable[[scenarios.Scenario, int], list[str]] | None = None
    """Options for a scenario's pushes or pulls, with the second server's port. None: it cannot, or nobody has said
    how."""

    web_options: Callable[[Path, int, bool], list[str]] = lambda directory, port, secure: []
    formats: tuple[str, ...] = ()
    has_https: bool = False

    def serves(self, scenario: scenarios.Scenario) -> bool:
        """Whether a scenario's viewers can get what they want."""
        return not scenario.format or (scenario.format in self.formats and (self.has_https or not scenario.secure))


def _our_relays(scenario: scenarios.Scenario, port: int) -> list[str]:
    if scenario.edge:
        return ["--pull", f"*/*=rtmp://{HOST}:{port}/{{channel}}/{{key}}"]
    channel = scenarios.app_name(0)
    rules = [f"{channel}=rtmp://{HOST}:{port}/{push_name(number)}/key" for number in range(scenario.pushes)]
    return ["--push", " ".join(rules)]


def push_name(number: int) -> str:
    """The channel at the second server."""
    return f"push{number}"


def given(text: str) -> Peer:
    """A peer from ``NAME=COMMAND``, where ``{port}``, ``{host}`` and ``{dir}`` stand for what it is given."""
    name, separator, line = text.partition("=")
    if not (name and separator and "{port}" in line):
        raise BenchError(f"--server {text!r} is not NAME=COMMAND with {{port}} in the command")
    words = shlex.split(line)

    def command(directory: Path, port: int) -> list[str]:
        values = {"{port}": str(port), "{web_port}": str(port + 1), "{host}": HOST, "{dir}": str(directory)}
        return [_replace(word, values) for word in words]

    return Peer(name, "as given", command, formats=FORMATS, has_https=True)


def find(names: Iterable[str]) -> tuple[list[Peer], list[str]]:
    """The peers of these names that are on the machine, and a reason for each that is not."""
    found, missing = [], []
    for name in names:
        try:
            found.append(KNOWN[name]())
        except BenchError as error:
            missing.append(f"{name}: {error}")
    return found, missing


def install_node_media_server() -> None:
    """Installs node-media-server into the cache directory with npm. Raises BenchError."""
    npm = _program("npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    line = [npm, "install", "--prefix", str(CACHE), "--no-audit", "--no-fund", "--ignore-scripts", NODE]
    if subprocess.run(line, cwd=CACHE, check=False).returncode:
        raise BenchError("npm could not install node-media-server")


def checkout(name: str, path: Path, directory: Path) -> Peer:
    """This server as it stands in a checkout of the project, from a copy of its package that is made in ``directory``.

    So nothing is written into the checkout, and what is edited there meanwhile is not measured. With
    RTMP_TWISTED_COMPILE=1 in the environment the copy is compiled. Raises BenchError.
    """
    path, source, package = path.resolve(), directory / "source", directory / "package"
    try:
        source.mkdir(parents=True)
        for folder in _PACKAGES:
            skipped = shutil.ignore_patterns("__pycache__", "dropin.cache")
            shutil.copytree(path / folder, source / folder, ignore=skipped)
        for file in _BUILD_FILES:
            shutil.copy(path / file, source)
    except OSError as error:
        raise BenchError(f"{path} is no checkout of this project: {error}") from error
    if os.environ.get("RTMP_TWISTED_COMPILE") != "1":
        return _server(name, source)
    python = str(Path(_twistd()).with_name("python"))
    line = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(package), str(source)]
    if subprocess.run(line, stdin=subprocess.DEVNULL, check=False).returncode:
        raise BenchError(f"{path} could not be compiled")
    return _server(name, package)


def _ours() -> Peer:
    return _server(OURS, PROJECT, *filter(None, [os.environ.get("PYTHONPATH")]))


def with_workers(count: int) -> Peer:
    """This server with so many workers."""
    one = _ours()
    name = f"{count} worker" if count == 1 else f"{count} workers"
    return replace(
        one, name=name, command=lambda directory, port: [*one.command(directory, port), f"--workers={count}"]
    )


def _server(name: str, package: Path, *search_path: str) -> Peer:
    """This server, from the folder ``package`` and with the project's virtual environment."""
    twistd = _twistd()
    options = ["--max-ip-concurrent-connections", "1000000", "--concurrent-limit-whitelist", "*"]

    def command(directory: Path, port: int) -> list[str]:
        return [twistd, "-n", "--pidfile=", "rtmp", "--rtmp-port", str(port), "--bind-address", HOST, *options]

    def web_options(directory: Path, port: int, secure: bool) -> list[str]:
        shared = ["--web-bind-address", HOST, "--web-max-per-ip", "1000000"]
        if not secure:
            return ["--web-port", str(port), *shared]
        certificate, key = self_signed(directory)
        files = ["--ssl-cert", str(certificate), "--ssl-key", str(key)]
        return ["--web-ssl-port", str(port), *shared, *files, "--ssl-port", str(port + 1), "--ssl-bind-address", HOST]

    version = _output([twistd, "--version"]).splitlines()[0].rpartition(" ")[2]
    environment = {"PYTHONPATH": os.pathsep.join([str(package), *search_path])}
    shown = f"{_project_version(package)}, Twisted {version}"
    return Peer(name, shown, command, environment, _our_relays, web_options, FORMATS, True)


def _twistd() -> str:
    own = [str(Path(sys.executable).parent)] if sys.prefix != sys.base_prefix else []
    path = os.pathsep.join([*own, str(PROJECT / ".venv/bin"), os.environ.get("PATH", "")])
    twistd = shutil.which("twistd", path=path)
    if twistd is None:
        raise BenchError("no twistd in a virtual environment or on the PATH: ./tools/serve makes .venv")
    return twistd


def _project_version(package: Path) -> str:
    text = (package / "rtmp_twisted/_version.py").read_text()
    match = re.search(r"^__version__.* = [\"']([^\"']+)", text, re.MULTILINE)
    return match[1] if match else "unknown version"


def _nginx() -> Peer:
    nginx = _program("nginx")
    about = _output([nginx, "-V"])
    modules = re.search(r"--modules-path=(\S+)", about)
    module = Path(modules[1] if modules else "/usr/lib/nginx/modules") / "ngx_rtmp_module.so"
    if not (is_dynamic := module.exists()) and "rtmp" not in about:
        raise BenchError(f"nginx is here, its RTMP module is not ({module}; Debian: libnginx-mod-rtmp)")

    def command(directory: Path, port: int) -> list[str]:
        names = map(scenarios.app_name, range(scenarios.MOST_CHANNELS))
        text = _NGINX_CONFIGURATION.format(
            load=f"load_module {module};\n" if is_dynamic else "",
            files=2 * scenarios.MOST_CONNECTIONS + 100,
            host=HOST,
            port=port,
            applications="\n".join(f"    application {name} {{ live on; }}" for name in names),
        )
        (directory / "nginx.conf").write_text(text)
        return [nginx, "-p", f"{directory}/", "-e", "error.log", "-c", "nginx.conf"]

    match = re.search(r"nginx/(\S+)", about)
    return Peer(NGINX, match[1] if match else "unknown version", command)


def _node_media_server() -> Peer:
    node = _program("node")
    for directory in (Path.cwd(), PROJECT, CACHE):
        module = directory / "node_modules" / NODE
        if (module / "package.json").exists():
            break
    else:
        raise BenchError(f"not in node_modules here or in {CACHE}: --install-peers puts it there, with npm")

    def command(directory: Path, port: int) -> list[str]:
        text = _NODE_PROGRAM.format(module=json.dumps(str(module)), host=HOST, port=port, web_port=port + 1)
        (directory / "server.js").write_text(text)
        return [node, "server.js"]

    return Peer(NODE, str(json.loads((module / "package.json").read_text())["version"]), command, formats=("flv",))


def _program(name: str) -> str:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise BenchError(f"there is no {name} on this machine")
    return found


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _replace(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


KNOWN: dict[str, Callable[[], Peer]] = {OURS: _ours, NGINX: _nginx, NODE: _node_media_server}
"""Peers that need no command, by name; the first one is the project's own."""
