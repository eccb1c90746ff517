"""nginx with its RTMP module: a server that others push to, and pull from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from tests.support.fakes import reactor
from tests.support.programs import Case, Program, free_port

_CONFIGURATION = """\
{load}daemon off;
master_process off;
user root;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
rtmp {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    chunk_size 4096;
    application live {{ live on; }}
  }}
}}
"""


class Nginx:
    """One whose application ``live`` takes any stream. `start` may be called again when it has been killed."""

    def __init__(self, case: Case) -> None:
        self.port = free_port()
        self.program: Program
        self._case = case
        directory = Path(case.mktemp()).absolute()
        directory.mkdir()
        (directory / "logs").mkdir()
        module = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
        about = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
        found = re.search(r"--modules-path=(\S+)", about)
        if found:
            module = Path(found[1]) / module.name
        load = f"load_module {module};\n" if module.exists() else ""
        user = _CONFIGURATION if Path("/proc/self").owner() == "root" else _CONFIGURATION.replace("user root;\n", "")
        (directory / "nginx.conf").write_text(user.format(load=load, port=self.port))
        self._command = ["nginx", "-p", f"{directory}/", "-e", "stderr", "-c", "nginx.conf"]

    async def start(self) -> None:
        """Returns when it accepts connections."""
        self.program = Program(self._case, *self._command)
        while True:
            if self.program.ended.called:
                raise AssertionError(str(self.program))
            try:
                probe: Any = await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.port), Protocol())
            except ConnectError:
                await deferLater(reactor, 0.02, lambda: None)
            else:
                probe.transport.loseConnection()
                return

    def url(self, name: str) -> str:
        return f"rtmp://127.0.0.1:{self.port}/live/{name}"
