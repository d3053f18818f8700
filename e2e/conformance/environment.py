"""Python environments of pinned packages: by default the one of all that compares with ONNX Runtime, in requirements.txt."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parent.parent / "target" / "conformance-venv"


def make(requirements=HERE / "requirements.txt", venv=VENV):
    """Installs the pinned packages, again when the pins change. Gives the pins."""
    pins = requirements.read_text()
    marker = venv / "pins.txt"
    if not (marker.exists() and marker.read_text() == pins):
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        marker.write_text(pins)
    return pins


def enter(script, requirements=HERE / "requirements.txt", venv=VENV):
    """Goes on with the pinned packages. Gives the pins."""
    pins = make(requirements, venv)
    if pathlib.Path(sys.prefix) != venv:
        python = str(venv / "bin" / "python")
        os.execv(python, [python, script, *sys.argv[1:]])
    return pins
