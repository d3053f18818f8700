"""Builds Go programs: those of this folder, and those that a go.mod names as tools.

This folder is one module, so that what several of them are made of (the clients of Kubernetes above all) has one version
and is compiled once. Each is built when it is not there, or when its sources, go.mod, go.sum, the flags or the compiler changed.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GO_FOLDER = "/usr/local/go/bin"
# Nobody debugs them: neither the compiler nor the linker writes what a debugger reads.
FLAGS = ("-trimpath", "-gcflags=all=-dwarf=false")
STRIPPED = ("-s", "-w")


class BuildError(SystemExit):
    """There is no Go compiler, or it failed. A script that does not catch it ends with its message."""


def build(package, program, linker_flags=(), module=HERE):
    """Builds `package` (`./coredns`, or the path of a tool) of the module in that folder into the file `program`."""
    program = Path(program)
    command = [*FLAGS, "-ldflags", " ".join([*STRIPPED, *linker_flags]), package]
    sources = sorted((module / package).glob("*.go")) if package.startswith("./") else []
    texts = [source.read_bytes() for source in (*sources, module / "go.mod", module / "go.sum")]
    made_from = hashlib.sha256()
    for part in (_go(module, "env", "GOVERSION", stdout=subprocess.PIPE).stdout.encode(), " ".join(command).encode(), *texts):
        made_from.update(hashlib.sha256(part).digest())
    stamp = program.with_name(f".{program.name}.stamp")
    if program.exists() and stamp.exists() and stamp.read_text() == made_from.hexdigest():
        return
    print(f"building {program.name} (the first time this takes some minutes)", flush=True)
    began = time.monotonic()
    program.parent.mkdir(parents=True, exist_ok=True)
    new = program.with_name(f"{program.name}.new")
    _go(module, "build", "-o", str(new), *command)
    # Programs that run keep the file that they were started from.
    os.replace(new, program)
    stamp.write_text(made_from.hexdigest())
    print(f"built {program.name} in {time.monotonic() - began:.0f} s", flush=True)


def folder_of(name):
    """The folder of a Go module that this folder's go.mod names, downloaded where it is not there."""
    return Path(json.loads(_go(HERE, "mod", "download", "-json", name, stdout=subprocess.PIPE).stdout)["Dir"])


def version_of(name):
    """The version of a Go module that is built, such as `v0.35.4`."""
    name = re.escape(name)
    # A replacement stands after what it replaces.
    found = re.findall(rf"^\t(?:{name} => )?{name} (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{HERE}/go.mod names no version of {name}")
    return found[-1]


def _go(folder, *arguments, **options):
    environment = {**os.environ, "CGO_ENABLED": "0", "PATH": f"{os.environ.get('PATH', '')}:{GO_FOLDER}"}
    go = shutil.which("go", path=environment["PATH"])
    if not go:
        wanted = re.search(r"^go (\S+)$", (folder / "go.mod").read_text(), re.MULTILINE)[1]
        raise BuildError(f"no Go compiler: install Go {wanted} or later in PATH or in {GO_FOLDER}")
    ended = subprocess.run([go, *arguments], cwd=folder, env=environment, check=False, text=True, **options)
    if ended.returncode:
        # An older Go that may not fetch the one that go.mod asks for refuses every command.
        raise BuildError(f"`go {' '.join(arguments)}` failed in {folder}: see above")
    return ended
