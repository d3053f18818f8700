#!/usr/bin/env python3
"""Tests of oci_image.py: python3 -m unittest discover -s e2e/cluster"""

import hashlib
import json
import os
import tarfile
import tempfile
import unittest
from pathlib import Path

from oci_image import Directory, File, ImageError, Tree, main, write_image


class OciImage(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        (self.folder / "tree" / "etc").mkdir(parents=True)
        (self.folder / "tree" / "etc" / "a").write_text("a")
        (self.folder / "tree" / "link").symlink_to("etc/a")
        (self.folder / "program").write_text("#!")
        (self.folder / "program").chmod(0o700)
        self.output = self.folder / "out.tar"

    def write(self, *layers, name="localhost/x:1", **options):
        return write_image(self.output, name, layers or [[Tree(self.folder / "tree")]], **options)

    def read(self):
        """The image's configuration, and the members of its layers. Checks each blob against its name."""
        with tarfile.open(self.output) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}
        for name, data in files.items():
            if name.startswith("blobs/"):
                self.assertEqual(name, f"blobs/sha256/{hashlib.sha256(data).hexdigest()}")

        def blob(descriptor):
            data = files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
            self.assertEqual(len(data), descriptor["size"])
            return data

        manifest = json.loads(blob(json.loads(files["index.json"])["manifests"][0]))
        layers = []
        for descriptor in manifest["layers"]:
            path = self.folder / "layer"
            path.write_bytes(blob(descriptor))
            with tarfile.open(path) as layer:
                layers.append({member.name: member for member in layer})
        return json.loads(blob(manifest["config"])), layers

    def test_same_input_same_bytes(self):
        for compress in (True, False):
            self.write(compress=compress)
            first = self.output.read_bytes()
            os.utime(self.folder / "tree" / "etc" / "a", (1, 1))
            (self.folder / "tree" / "etc" / "a").chmod(0o600)
            self.write(compress=compress)
            self.assertEqual(first, self.output.read_bytes())

    def test_contents(self):
        self.write(
            [Tree(self.folder / "tree"), Directory("/tmp", 0o1777), Directory("/data", 0o700, 5, 6)],
            [File(self.folder / "program", "/usr/bin/program")],
            entrypoint=["/usr/bin/program"],
            user="65532:65532",
        )
        config, (base, top) = self.read()
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/bin/program"])
        self.assertEqual(config["config"]["User"], "65532:65532")
        self.assertEqual(list(base), ["data", "etc", "etc/a", "link", "tmp"])
        self.assertEqual((base["tmp"].mode, base["data"].uid, base["data"].gid), (0o1777, 5, 6))
        self.assertEqual((base["link"].linkname, base["etc/a"].mode, base["etc/a"].mtime), ("etc/a", 0o644, 0))
        self.assertEqual(list(top), ["usr", "usr/bin", "usr/bin/program"])
        self.assertEqual(top["usr/bin/program"].mode, 0o755)
        self.assertEqual(len(config["rootfs"]["diff_ids"]), 2)

    def test_a_shared_layer_is_the_same(self):
        self.write()
        alone = self.read()[0]["rootfs"]["diff_ids"]
        self.write([Tree(self.folder / "tree")], [File(self.folder / "program", "/p")])
        self.assertEqual(alone, self.read()[0]["rootfs"]["diff_ids"][:1])

    def test_refused(self):
        program = self.folder / "program"
        for layer in (
            [File(self.folder / "nowhere", "/a")],
            [File(self.folder / "tree", "/a")],
            [File(program, "a")],
            [File(program, "/../a")],
            [File(program, "/a"), File(program, "/a")],
            [Tree(self.folder / "nowhere")],
        ):
            with self.assertRaises(ImageError, msg=str(layer)):
                self.write(layer)
        self.assertFalse(self.output.exists())

    def test_names(self):
        for name in ("localhost/x:1", "localhost:5000/a/b:v1.0_x", "ghcr.io/a-b/c:latest"):
            self.write(name=name)
        for name in ("x:1", "a/b:1", "localhost/x", "localhost/X:1", "localhost/x:", "localhost/x:1 "):
            with self.assertRaises(ImageError, msg=name):
                self.write(name=name)

    def test_command_line(self):
        arguments = ["--output", str(self.output), "--name", "localhost/x:1", "--entrypoint", '["/p"]']
        arguments += ["--tree", str(self.folder / "tree"), "--dir", "/tmp:1777", "--layer"]
        self.assertEqual(main([*arguments, "--add", f"{self.folder}/program=/p"]), 0)
        self.assertEqual([list(layer) for layer in self.read()[1]], [["etc", "etc/a", "link", "tmp"], ["p"]])


if __name__ == "__main__":
    unittest.main()
