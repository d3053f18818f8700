"""The Python environment of all that compares with ONNX Runtime: its packages are pinned in requirements.txt."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parent.parent / "target" / "conformance-venv"


def enter(script):
    """Goes on with the pinned packages, which are installed again when the pins change. Gives the pins."""
    pins = (HERE / "requirements.txt").read_text()
    marker = VENV / "pins.txt"
    if not (marker.exists() and marker.read_text() == pins):
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = [VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        marker.write_text(pins)
    if pathlib.Path(sys.prefix) != VENV:
        python = str(VENV / "bin" / "python")
        os.execv(python, [python, script, *sys.argv[1:]])
    return pins
