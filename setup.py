"""All is said in pyproject.toml, but for the compiled build.

With INFINITY_GATEWAY_COMPILED=1 what each call passes through becomes machine code: the same modules, but
compiled by mypyc. That needs a C compiler and, where it is built, mypy and the packages of the gateway.
"""

import os
from glob import glob

from setuptools import setup

# Not what derives from classes of C (of the loop, of msgspec) or is derived from by what is not compiled, nor
# errors, which are copied for another thread, nor what runs only at the start.
COMPILED = {
    *glob("gateway/core/*.py"),
    *glob("gateway/pool/*.py"),
    "gateway/api/auth.py",
    "gateway/api/endpoint.py",
    "gateway/api/middleware.py",
    "gateway/api/openai.py",
    "gateway/api/parsing.py",
    "gateway/api/protocol.py",
    "gateway/api/rendering.py",
    "gateway/deadlines.py",
    "gateway/messages.py",
    "gateway/observability/metrics.py",
    "gateway/service.py",
    "gateway/vectors.py",
} - {"gateway/core/settings.py", "gateway/pool/port.py"}

extensions = []
if os.environ.get("INFINITY_GATEWAY_COMPILED") == "1":
    from mypyc.build import mypycify

    extensions = mypycify(sorted(COMPILED), opt_level="3", debug_level="0")

setup(ext_modules=extensions)
