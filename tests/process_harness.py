"""Python programs that tests run in a process of their own: for what happens once in a process, at its start or at its end."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **env: str) -> str:
    """What a program prints, run by this interpreter with some environment variables set. It has to succeed and to write no errors."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
