#!/usr/bin/env python3
"""Makes a container image (an OCI archive) from plain files, without a container engine.

As a program:

    oci_image.py --output pause.tar --name localhost/pause:1 \
        --entrypoint '["/pause"]' --user 65532:65532 --add build/pause=/pause

    oci_image.py --output app.tar --name localhost/app:dev --entrypoint '["/usr/bin/app"]' \
        --tree build/rootfs --dir /tmp:1777 --layer --add target/release/app=/usr/bin/app

As a module:

    from oci_image import Directory, File, Tree, write_image
    write_image("app.tar", "localhost/app:dev",
                layers=[[Tree("build/rootfs"), Directory("/tmp", 0o1777)],
                        [File("target/release/app", "/usr/bin/app")]],
                entrypoint=["/usr/bin/app"], user="65532:65532")

The same input gives the same bytes: entries are sorted, times are zero, owners are 0:0 unless a
`Directory` says otherwise, modes are 0755 or 0644 by the owner's execute bit, and the gzip header
holds neither a name nor a time. Layers that two images share are equal byte for byte, so a node
stores them once. Nothing is held in memory whole, so a layer may be large.

Needs Python 3.9 or later, the standard library only.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import stat
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Union

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
EPOCH = "1970-01-01T00:00:00Z"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
# A registry's host, at least one path part, a tag. The host is required because a container runtime
# reads a name without one as "docker.io/library/...", and then does not find what was imported.
NAME = re.compile(
    r"^(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[a-z0-9.-]+:[0-9]+)(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[\w][\w.-]{0,127}$"
)


class ImageError(Exception):
    """The image cannot be made; the message says what was wrong and what to do."""


@dataclass(frozen=True)
class File:
    """One file or symbolic link `source` of this machine, at the absolute path `dest` in the image."""

    source: Union[str, Path]
    dest: str


@dataclass(frozen=True)
class Tree:
    """Everything below the folder `source`, put below the absolute path `dest` in the image."""

    source: Union[str, Path]
    dest: str = "/"


@dataclass(frozen=True)
class Directory:
    """An empty folder of the image with a mode and an owner of its own, for example /tmp with 0o1777."""

    dest: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


Item = Union[File, Tree, Directory]


def write_image(
    output: Union[str, Path],
    name: str,
    layers: Sequence[Sequence[Item]],
    *,
    entrypoint: Sequence[str] = (),
    cmd: Sequence[str] = (),
    user: str = "",
    env: Sequence[str] = (),
    workdir: str = "",
    labels: Optional[dict] = None,
    architecture: str = "",
    compress: bool = True,
) -> str:
    """Writes the OCI archive `output`, known to the runtime as `name`, and returns its manifest's digest.

    `layers` go from the lowest to the highest. `user` is "UID:GID" in numbers, since an image made
    of plain files has no /etc/passwd. `compress=False` stores the layers as plain tar, which is
    quicker to write and to import and takes more room. The file appears under its name only when
    it is complete.
    """
    if not NAME.match(name):
        raise ImageError(f"image name {name!r}: want HOST/PATH:TAG, for example localhost/stoker:dev")
    architecture = architecture or ARCHITECTURES.get(platform.machine(), "")
    if not architecture:
        raise ImageError(f"no OCI architecture is known for {platform.machine()!r}: give one")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        archive = _Archive(Path(scratch))
        built = [archive.add_layer(items, compress) for items in layers]
        config = {
            "created": EPOCH,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": [DEFAULT_PATH, *env] if not any(e.startswith("PATH=") for e in env) else list(env),
                **({"Entrypoint": list(entrypoint)} if entrypoint else {}),
                **({"Cmd": list(cmd)} if cmd else {}),
                **({"User": user} if user else {}),
                **({"WorkingDir": workdir} if workdir else {}),
                **({"Labels": dict(sorted(labels.items()))} if labels else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in built]},
            "history": [{"created": EPOCH, "created_by": "oci_image.py"} for _ in built],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": archive.add_json(CONFIG, config),
            "layers": [descriptor for descriptor, _ in built],
        }
        described = archive.add_json(MANIFEST, manifest)
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    **described,
                    "annotations": {
                        "io.containerd.image.name": name,
                        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
                    },
                    "platform": {"architecture": architecture, "os": "linux"},
                }
            ],
        }
        finished = Path(scratch) / "archive"
        archive.write(finished, index)
        os.replace(finished, output)
    return described["digest"]


class _Archive:
    """The blobs of one image, kept in the folder `scratch` until they are written out."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.blobs: dict = {}

    def add_json(self, media_type: str, value: dict) -> dict:
        """Adds a JSON document as a blob and returns its descriptor."""
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        path = self.scratch / f"blob{len(self.blobs)}"
        path.write_bytes(data)
        return self._add(path, media_type, hashlib.sha256(data).hexdigest())

    def add_layer(self, items: Sequence[Item], compress: bool) -> tuple:
        """Adds a layer as a blob and returns its descriptor and the digest of its plain tar."""
        path = self.scratch / f"blob{len(self.blobs)}"
        with open(path, "wb") as file:
            stored = _Hashing(file)
            zipped = gzip.GzipFile("", "wb", 1, stored, mtime=0) if compress else None
            plain = _Hashing(zipped or stored)
            with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for entry, source in _entries(items):
                    if entry.isreg():
                        with open(source, "rb") as content:
                            tar.addfile(entry, content)
                    else:
                        tar.addfile(entry)
            if zipped:
                zipped.close()
        media_type = LAYER + ("+gzip" if compress else "")
        return self._add(path, media_type, stored.digest()), f"sha256:{plain.digest()}"

    def _add(self, path: Path, media_type: str, digest: str) -> dict:
        self.blobs[digest] = path
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": path.stat().st_size}

    def write(self, output: Path, index: dict) -> None:
        """Writes the archive: the layout's marker, the index, then the blobs in the order of their digests."""
        with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                data = json.dumps(value, sort_keys=True).encode()
                tar.addfile(_entry(name, tarfile.REGTYPE, 0o644, size=len(data)), io.BytesIO(data))
            for name in ("blobs", "blobs/sha256"):
                tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
            for digest, path in sorted(self.blobs.items()):
                with open(path, "rb") as file:
                    size = path.stat().st_size
                    tar.addfile(_entry(f"blobs/sha256/{digest}", tarfile.REGTYPE, 0o644, size=size), file)


class _Hashing:
    """A file to write to that also knows the SHA-256 of what went through it."""

    def __init__(self, target):
        self.target = target
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.target.write(data)
        return len(data)

    def flush(self) -> None:
        self.target.flush()

    def digest(self) -> str:
        return self.hash.hexdigest()


def _entry(name: str, kind: bytes, mode: int, *, size: int = 0, link: str = "", uid: int = 0, gid: int = 0):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname, entry.uid, entry.gid = kind, mode, size, link, uid, gid
    return entry


def _entries(items: Sequence[Item]) -> list:
    """The tar entries of one layer with their sources, each folder before what it holds."""
    found: dict = {}

    def put(dest: str, entry, source=None) -> None:
        known = found.get(dest)
        if known and not (known[0].isdir() and entry.isdir()):
            raise ImageError(f"{dest} is given twice in one layer: leave one out, or start another layer")
        if not known or isinstance(source, Directory):
            found[dest] = (entry, source)

    def put_path(source: Path, dest: str) -> None:
        try:
            info = source.lstat()
        except OSError as error:
            raise ImageError(f"{source}: {error.strerror}, wanted as {dest} of the image") from error
        name = dest.lstrip("/")
        if stat.S_ISLNK(info.st_mode):
            put(dest, _entry(name, tarfile.SYMTYPE, 0o777, link=os.readlink(source)))
        elif stat.S_ISDIR(info.st_mode):
            put(dest, _entry(name, tarfile.DIRTYPE, 0o755))
        elif stat.S_ISREG(info.st_mode):
            mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
            put(dest, _entry(name, tarfile.REGTYPE, mode, size=info.st_size), source)
        else:
            raise ImageError(f"{source}: only files, folders and symbolic links can go into an image")

    for item in items:
        dest = _absolute(item.dest)
        if isinstance(item, Directory):
            entry = _entry(dest.lstrip("/"), tarfile.DIRTYPE, item.mode, uid=item.uid, gid=item.gid)
            put(dest, entry, item)
        elif isinstance(item, File):
            source = Path(item.source)
            if source.is_dir() and not source.is_symlink():
                raise ImageError(f"{source} is a folder: give it as a tree")
            put_path(source, dest)
        else:
            root = Path(item.source)
            if not root.is_dir():
                raise ImageError(f"{root}: no such folder")
            for folder, folders, files in os.walk(root):
                for name in folders + files:
                    source = Path(folder) / name
                    put_path(source, _absolute(f"{dest}/{source.relative_to(root)}"))
            if dest != "/":
                put(dest, _entry(dest.lstrip("/"), tarfile.DIRTYPE, 0o755))
    for dest in list(found):
        for parent in Path(dest).parents:
            if str(parent) != "/" and str(parent) not in found:
                found[str(parent)] = (_entry(str(parent).lstrip("/"), tarfile.DIRTYPE, 0o755), None)
    return [found[dest] for dest in sorted(found, key=lambda dest: dest.split("/"))]


def _absolute(dest: str) -> str:
    if not dest.startswith("/") or ".." in dest.split("/"):
        raise ImageError(f"{dest!r} is not an absolute path of the image")
    return "/" + "/".join(part for part in dest.split("/") if part not in ("", "."))


class _Append(argparse.Action):
    """Puts --add, --tree, --dir and --layer into one list, since their order matters."""

    def __call__(self, parser, namespace, value, option=None):
        try:
            if self.dest == "layer":
                namespace.layers.append([])
                return
            if self.dest == "add":
                source, _, dest = value.rpartition("=")
                item = File(source, dest)
                if not source:
                    raise ImageError(f"--add {value}: want SOURCE=DEST")
            elif self.dest == "tree":
                source, _, dest = value.partition("=")
                item = Tree(source, dest or "/")
            else:
                path, mode, uid, gid = (value.split(":") + ["", "", ""])[:4]
                item = Directory(path, int(mode or "755", 8), int(uid or "0"), int(gid or uid or "0"))
            namespace.layers[-1].append(item)
        except (ImageError, ValueError) as error:
            parser.error(str(error))


def _strings(text: str) -> list:
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise argparse.ArgumentTypeError("want a JSON list of strings")
    return value


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; prints the digest of the manifest."""
    parser = argparse.ArgumentParser(description="Makes an OCI image archive from plain files.")
    parser.set_defaults(layers=[[]])
    parser.add_argument("--output", required=True, help="the archive to write")
    parser.add_argument("--name", required=True, help="HOST/PATH:TAG")
    parser.add_argument("--entrypoint", type=_strings, default=[], help="a JSON list")
    parser.add_argument("--cmd", type=_strings, default=[], help="a JSON list")
    parser.add_argument("--user", default="", help="UID:GID")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--workdir", default="")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--architecture", default="", help="amd64, arm64; default: this machine's")
    parser.add_argument("--no-compress", action="store_true", help="store the layers as plain tar")
    order = "may be given more than once"
    parser.add_argument("--add", action=_Append, metavar="SOURCE=DEST", help=f"a file; {order}")
    parser.add_argument("--tree", action=_Append, metavar="DIR[=DEST]", help=f"all of a folder; {order}")
    parser.add_argument("--dir", action=_Append, metavar="PATH[:MODE[:UID[:GID]]]", help=f"an empty folder; {order}")
    parser.add_argument("--layer", action=_Append, nargs=0, help="what follows goes into a further layer")
    given = parser.parse_args(arguments)
    try:
        digest = write_image(
            given.output,
            given.name,
            [layer for layer in given.layers if layer],
            entrypoint=given.entrypoint,
            cmd=given.cmd,
            user=given.user,
            env=given.env,
            workdir=given.workdir,
            labels=dict(label.split("=", 1) for label in given.label if "=" in label),
            architecture=given.architecture,
            compress=not given.no_compress,
        )
    except (ImageError, OSError) as error:
        print(f"oci_image.py: {error}", file=sys.stderr)
        return 1
    print(digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
