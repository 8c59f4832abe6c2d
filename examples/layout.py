#!/usr/bin/env python3
"""Small glue around OCI image layouts for the two build scripts beside it.

The images themselves are made by umoci, skopeo and buildah.  This file does
what these tools (in the versions of Debian 12) cannot: set the CPU variant in
an image config, write artifact manifests and nested indexes, give two tags to
one index, and check a finished layout to the last byte.

    layout.py init LAYOUT                      an empty layout
    layout.py put LAYOUT [FILE]                store a blob, print "DIGEST SIZE"
    layout.py link LAYOUT DIGEST [TAG] [K=V..] list a manifest in index.json
    layout.py digest LAYOUT TAG                what a tag points to
    layout.py variant LAYOUT TAG VARIANT       set the config's CPU variant
    layout.py import-dir DIR LAYOUT TAG        skopeo's "dir:" form -> layout
    layout.py export-dir LAYOUT TAG DIR        layout -> skopeo's "dir:" form
    layout.py normalise LAYOUT                 tidy index.json, drop unused blobs
    layout.py check LAYOUT [TAG...]            verify everything, print a table
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = {OCI_INDEX, DOCKER_LIST}
MANIFESTS = {OCI_MANIFEST, DOCKER_MANIFEST}
IMAGE_CONFIGS = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
REF_NAME = "org.opencontainers.image.ref.name"


def fail(message):
    sys.exit(f"layout.py: {message}")


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def sha256_of(path):
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Layout:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.blobs = self.folder / "blobs" / "sha256"

    def init(self):
        self.blobs.mkdir(parents=True, exist_ok=True)
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}\n')
        self.write_index([])

    def entries(self):
        return json.loads((self.folder / "index.json").read_text())["manifests"]

    def write_index(self, entries):
        # Indented: index.json is the one file here that is not named by its
        # digest, and people will want to read it.
        text = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=2
        )
        (self.folder / "index.json").write_text(text + "\n")

    def path(self, digest):
        algorithm, _, hexes = digest.partition(":")
        if algorithm != "sha256":
            fail(f"unexpected digest {digest}")
        return self.blobs / hexes

    def load(self, digest):
        return json.loads(self.path(digest).read_bytes())

    def put(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.path(digest).write_bytes(data)
        return digest

    def descriptor(self, digest):
        """The descriptor of a manifest or index that is already stored."""
        value = self.load(digest)
        media_type = value.get("mediaType") or (
            OCI_INDEX if "manifests" in value else OCI_MANIFEST
        )
        result = {
            "mediaType": media_type,
            "digest": digest,
            "size": self.path(digest).stat().st_size,
        }
        # image-spec 1.1 repeats an artifact's type in its descriptor.
        if value.get("artifactType"):
            result["artifactType"] = value["artifactType"]
        return result

    def link(self, digest, tag=None, annotations=None):
        annotations = dict(annotations or {})
        if tag:
            annotations[REF_NAME] = tag
        entry = self.descriptor(digest)
        if annotations:
            entry["annotations"] = annotations
        keep = [
            e
            for e in self.entries()
            if not (tag and e.get("annotations", {}).get(REF_NAME) == tag)
        ]
        self.write_index([*keep, entry])

    def resolve(self, tag):
        found = [
            e for e in self.entries() if e.get("annotations", {}).get(REF_NAME) == tag
        ]
        if len(found) != 1:
            fail(f"{self.folder}: tag {tag!r} found {len(found)} times")
        return found[0]["digest"]

    def set_variant(self, tag, variant):
        digest = self.resolve(tag)
        manifest = self.load(digest)
        config = self.load(manifest["config"]["digest"])
        ordered = {}
        for key, value in config.items():
            ordered[key] = value
            if key == "architecture":
                ordered["variant"] = variant
        data = compact(ordered)
        manifest["config"]["digest"] = self.put(data)
        manifest["config"]["size"] = len(data)
        self.link(self.put(compact(manifest)), tag)

    def import_dir(self, source, tag):
        # "dir:" keeps the list as manifest.json, each listed manifest as
        # HEX.manifest.json and each blob as HEX.
        source = Path(source)
        if not (self.folder / "index.json").exists():
            self.init()
        for item in sorted(source.iterdir()):
            if item.name not in ("manifest.json", "version"):
                data = item.read_bytes()
                digest = self.put(data)
                if digest.removeprefix("sha256:") != item.name.split(".")[0]:
                    fail(f"{item} does not match its name")
        self.link(self.put((source / "manifest.json").read_bytes()), tag)

    def export_dir(self, tag, target):
        """The way back: skopeo does not read Docker manifests in a layout."""
        target = Path(target)
        target.mkdir(parents=True)
        top = self.resolve(tag)
        for entry, _ in self.walk(self.descriptor(top), set()):
            name = entry["digest"].removeprefix("sha256:")
            if entry["digest"] == top:
                name = "manifest.json"
            elif entry["mediaType"] in INDEXES | MANIFESTS:
                name += ".manifest.json"
            (target / name).write_bytes(self.path(entry["digest"]).read_bytes())
        (target / "version").write_text("Directory Transport Version: 1.1\n")

    def walk(self, entry, seen, platform=None):
        """Yield (descriptor, platform) for everything below one descriptor."""
        digest = entry["digest"]
        yield entry, entry.get("platform") or platform
        if digest in seen:
            return
        seen.add(digest)
        kind = entry["mediaType"]
        if kind in INDEXES:
            for child in self.load(digest)["manifests"]:
                yield from self.walk(child, seen)
        elif kind in MANIFESTS:
            manifest = self.load(digest)
            for child in [manifest["config"], *manifest["layers"]]:
                yield child, None
            # The subject is a weak reference, but in our samples it is present.
            if "subject" in manifest:
                yield from self.walk(manifest["subject"], seen)

    def reachable(self):
        seen, result = set(), []
        for entry in self.entries():
            result.extend(self.walk(entry, seen))
        return result

    def normalise(self):
        """Drop unused blobs and files that only a tool's own run needs."""
        entries = []
        for entry in self.entries():
            # Old tools write the machine's own platform even for an index.
            if entry["mediaType"] in INDEXES:
                entry.pop("platform", None)
            entries.append(entry)
        entries.sort(key=lambda e: (e.get("annotations", {}).get(REF_NAME, "~"), e["digest"]))
        self.write_index(entries)
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}\n')
        used = {self.path(d["digest"]) for d, _ in self.reachable()}
        for blob in self.blobs.iterdir():
            if blob not in used:
                blob.unlink()
        for folder in [self.folder, self.folder / "blobs", self.blobs]:
            folder.chmod(0o755)
        for file in self.folder.rglob("*"):
            if file.is_file():
                file.chmod(0o644)

    def check_image(self, manifest):
        """An image's layers must match the diff_ids of its config."""
        if manifest["config"]["mediaType"] not in IMAGE_CONFIGS:
            return
        config = self.load(manifest["config"]["digest"])
        diff_ids = config["rootfs"]["diff_ids"]
        layers = manifest["layers"]
        if len(diff_ids) != len(layers):
            fail(f"{len(layers)} layers but {len(diff_ids)} diff_ids")
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            opener = gzip.open if layer["mediaType"].endswith("gzip") else open
            with opener(self.path(layer["digest"]), "rb") as handle:
                hasher = hashlib.sha256()
                while chunk := handle.read(1 << 20):
                    hasher.update(chunk)
            if "sha256:" + hasher.hexdigest() != diff_id:
                fail(f"layer {layer['digest']} does not match diff_id {diff_id}")
        with_layer = [h for h in config.get("history", []) if not h.get("empty_layer")]
        if config.get("history") and len(with_layer) != len(layers):
            fail("history does not match the layers")

    def check(self, tags):
        if json.loads((self.folder / "oci-layout").read_text()) != {
            "imageLayoutVersion": "1.0.0"
        }:
            fail(f"{self.folder}: bad oci-layout")
        for blob in self.blobs.iterdir():
            if sha256_of(blob) != blob.name:
                fail(f"{blob} does not match its name")
        for tag in tags:
            self.resolve(tag)
        everything = self.reachable()
        for entry, _ in everything:
            path = self.path(entry["digest"])
            if not path.is_file():
                fail(f"{self.folder}: {entry['digest']} is missing")
            if path.stat().st_size != entry["size"]:
                fail(f"{self.folder}: {entry['digest']} has another size")
            if entry["mediaType"] in INDEXES | MANIFESTS:
                value = self.load(entry["digest"])
                if value.get("mediaType", entry["mediaType"]) != entry["mediaType"]:
                    fail(f"{entry['digest']} has another media type inside")
        used = {entry["digest"] for entry, _ in everything}
        stored = {"sha256:" + blob.name for blob in self.blobs.iterdir()}
        if stored != used:
            fail(f"{self.folder}: unused blobs {sorted(stored - used)}")
        seen = set()
        for entry, platform in everything:
            digest, kind = entry["digest"], entry["mediaType"]
            if kind not in INDEXES | MANIFESTS:
                continue
            tag = entry.get("annotations", {}).get(REF_NAME, "-")
            if digest in seen and tag == "-":
                continue
            if digest not in seen and kind in MANIFESTS:
                self.check_image(self.load(digest))
            seen.add(digest)
            note = entry.get("artifactType", "")
            if platform:
                keys = ("os", "architecture", "variant")
                note = "/".join(platform[k] for k in keys if platform.get(k))
            print(f"  {digest}  {kind.split('.v')[0].split('/')[1]}  {tag}  {note}".rstrip())
        total = sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())
        print(f"  {self.folder.name}: ok, {len(stored)} blobs, {total} bytes")


def main(arguments):
    if len(arguments) < 2:
        fail(__doc__)
    command, *rest = arguments
    if command == "import-dir":
        Layout(rest[1]).import_dir(rest[0], rest[2])
        return
    layout, rest = Layout(rest[0]), rest[1:]
    if command == "init":
        layout.init()
    elif command == "put":
        data = Path(rest[0]).read_bytes() if rest else sys.stdin.buffer.read()
        print(layout.put(data), len(data))
    elif command == "link":
        tags = [word for word in rest[1:] if "=" not in word]
        pairs = dict(word.split("=", 1) for word in rest[1:] if "=" in word)
        layout.link(rest[0], tags[0] if tags else None, pairs)
    elif command == "digest":
        print(layout.resolve(rest[0]))
    elif command == "variant":
        layout.set_variant(*rest)
    elif command == "export-dir":
        layout.export_dir(*rest)
    elif command == "normalise":
        layout.normalise()
    elif command == "check":
        layout.check(rest)
    else:
        fail(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
