"""What setup.cfg cannot express: the modules that pyproject.toml lists under ``compiled`` can be compiled.

By mypyc, from the same source files, when RTMP_TWISTED_COMPILE=1 is in the environment (docs/performance.md). Otherwise
the package is Python only, and needs no compiler.
"""

from __future__ import annotations

import os
import tempfile
import tomllib

from setuptools import setup

# mypyc only needs the types of the compiled files themselves; .ci/run checks types with all the rest.
OPTIONS = ["--config-file=", "--follow-imports=skip", "--ignore-missing-imports"]

with tempfile.TemporaryDirectory() as build_base:
    # setuptools takes over whatever an earlier build left in its build directory, so each build gets a new one.
    options = {"build": {"build_base": build_base}}
    if os.environ.get("RTMP_TWISTED_COMPILE") != "1":
        setup(options=options)
    else:
        try:
            from mypyc.build import mypycify
        except ImportError:  # pip first asks what the build requires, then runs this file again with it installed
            setup(options=options, setup_requires=["mypy >= 1.11", "attrs >= 23.2"])
        else:
            with open("pyproject.toml", "rb") as file:
                modules = tomllib.load(file)["tool"]["rtmp-twisted"]["compiled"]
            files = [module.replace(".", "/") + ".py" for module in modules]
            setup(options=options, ext_modules=mypycify([*OPTIONS, *files], target_dir=build_base))
