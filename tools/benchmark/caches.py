"""This server behind two levels of caches, for HLS: nginx behind nginx, as docs/watch.md configures it.

``PYTHONPATH=tools python3 -m benchmark.caches PORT WEB_PORT FILE`` serves RTMP on the first port and the outer cache's
HTTP on the second, until it is terminated. Then it writes to FILE how many requests each of the three has got.
``tools/bench --server`` can measure it like any server (docs/performance.md). `configuration` is what a test takes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from .peers import HOST, KNOWN, OURS, PROJECT
from .process import free_port

STATUS = "/nginx-status"
"""Where a cache says how many requests it has got."""

_CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    add_header X-Cache $upstream_cache_status always;
    {shared}
    server {{
        listen {host}:{port} backlog=4096;
        location = {status} {{ stub_status; }}
        {locations}
    }}
}}
"""


def configuration(directory: Path, port: int, upstream: int) -> str:
    """nginx.conf for a cache on a port, in front of another port: what docs/watch.md says, and what a process of a test
    needs beside it. All files are in ``directory``."""
    blocks = re.findall(r"```nginx\n(.*?)```", (PROJECT / "docs/watch.md").read_text(), re.DOTALL)
    text = "".join(blocks).replace("/var/cache/nginx", str(directory)).replace("127.0.0.1:8935", f"{HOST}:{upstream}")
    shared = re.findall(r"(?m)^proxy_cache_path .*$", text)
    locations = re.findall(r"(?ms)^location .*?^}$", text)
    return _CONFIGURATION.format(
        directory=directory,
        shared="\n".join(shared),
        locations="\n".join(locations),
        host=HOST,
        port=port,
        status=STATUS,
    )


def start(directory: Path, port: int, upstream: int) -> list[str]:
    """Writes a cache's files into a new ``directory``; returns the command that runs it. Raises FileNotFoundError."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        raise FileNotFoundError("there is no nginx on this machine")
    directory.mkdir()
    directory.chmod(0o777)  # nginx may go on as another user
    file = directory / "nginx.conf"
    file.write_text(configuration(directory, port, upstream))
    return [nginx, "-e", "stderr", "-p", str(directory), "-c", str(file)]


def main() -> None:
    port, web_port, result = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    inner, web, operators = free_port(HOST), free_port(HOST), free_port(HOST)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtmp-bench-")))
        directory.chmod(0o755)
        peer = KNOWN[OURS]()
        server = [*peer.command(directory, port), *peer.web_options(directory, web, False)]
        server += ["--http-port", str(operators), "--http-bind-address", HOST]
        commands = [server, start(directory / "inner", inner, web), start(directory / "outer", web_port, inner)]
        environment = {**os.environ, **peer.environment}
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # behind them: they would not end by it either
        signal.sigwait([signal.SIGTERM])
        counts = [_requests(web_port), _requests(inner), _answers(operators)]
        result.write_text("requests: {} of viewers, {} of the outer cache, {} of the inner one\n".format(*counts))
        for process in processes:
            process.terminate()
            process.wait()


def _requests(port: int) -> int:
    """Of a cache: but for this one."""
    fields = _get(port, STATUS).split("requests\n")[1].split()
    return int(fields[2]) - 1


def _answers(port: int) -> int:
    """Of the server."""
    found = re.findall(r"(?m)^rtmp_web_answers_total\{.*\} (\S+)$", _get(port, "/metrics"))
    return sum(int(float(count)) for count in found)


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


if __name__ == "__main__":
    main()
