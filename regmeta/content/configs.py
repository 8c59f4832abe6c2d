"""Image configurations, read from the store and verified: histories beside layers, and what differs.

Their labels and platforms are in rows; how a container runs and how its image was made are only in the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from regmeta.content.streams import open_blob
from regmeta.db import Database
from regmeta.errors import DamagedBlob
from regmeta.oci import media_types
from regmeta.oci.descriptor import Platform
from regmeta.oci.digest import Digest
from regmeta.oci.image_config import (
    MAX_CONFIG_BYTES,
    Aligned,
    ConfigDetails,
    align,
    parse_details,
    setting_lines,
)
from regmeta.oci.names import Reference
from regmeta.query.catalog import resolve_in
from regmeta.query.images.choose import image_of
from regmeta.query.images.diff import changes as changes_of
from regmeta.query.images.diff import diff
from regmeta.query.images.layers import config_in, layers_in
from regmeta.query.images.results import Change, ImageDiff, ImageLayers, ImageSummary, LayerDetails
from regmeta.query.images.summary import summary_in
from regmeta.query.tree import StoredBlob
from regmeta.query.visibility import Visibility
from regmeta.store import BlobStore

_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """The configuration of one image. Where ``details`` is None, ``problem`` says why: it is of an artifact
    and none of an image, or too large, or damaged.
    """

    image: Digest
    platform: str | None
    media_type: str | None
    digest: Digest
    size_bytes: int
    details: ConfigDetails | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ImageHistory:
    """How an image was made, its layers beside the steps that made them, from the base up."""

    layers: ImageLayers
    config: ReadConfig
    aligned: Aligned[LayerDetails]


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image with its configuration; an index has none."""

    summary: ImageSummary
    config: ReadConfig | None


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """What differs between the configurations of two images of one platform, and what could not be read."""

    platform: str | None
    changes: tuple[Change, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two images compared: by their rows, and for each pair by their configurations."""

    images: ImageDiff
    configs: tuple[ConfigDiff, ...]


def view(
    database: Database,
    store: BlobStore,
    reference: Reference,
    *,
    platform: Platform | None = None,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> ImageView:
    """Read all that there is to say of an image or an index; with *platform*, of its image for that.

    Raises:
        NotFound: the reference means nothing here, or there is no image for this platform.
        IntegrityError: its own row is damaged.
        StoreUnavailable: the store cannot be read.
    """
    with database.read() as connection:
        root, _ = resolve_in(connection, reference, at, visible)
        shown = None
        if platform is not None:
            root, shown = image_of(connection, root, reference, platform)
        found = summary_in(connection, root, reference.repository, at)
        config = config_in(connection, root) if found.kind == "image" else None
    return ImageView(found, None if config is None else _read(store, shown, *config))


def compare(
    database: Database,
    store: BlobStore,
    first: Reference,
    second: Reference,
    *,
    platform: Platform | None = None,
    visible: Visibility | None = None,
) -> Comparison:
    """Compare two images, their configurations included; see :func:`regmeta.query.images.diff.diff`.

    Raises:
        NotFound, UsageError, IntegrityError: as that does; NotFound also if an image went meanwhile.
        StoreUnavailable: the store cannot be read.
    """
    found = diff(database, first, second, platform=platform, visible=visible)
    configs = []
    for pair in found.pairs:
        one, two = (
            read_config(database, store, Reference(of.repository, digest=digest), visible=visible)
            for of, digest in ((first, pair.first), (second, pair.second))
        )
        problems = tuple(f"{each.image}: {each.problem}" for each in (one, two) if each.problem)
        configs.append(ConfigDiff(pair.platform, changes(one.details, two.details), problems))
    return Comparison(found, tuple(configs))


def read_config(
    database: Database,
    store: BlobStore,
    reference: Reference,
    *,
    platform: Platform | None = None,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> ReadConfig:
    """Read the configuration of an image, below an index that of its image for *platform*.

    Raises:
        NotFound: the reference means nothing here, or there is no image for this platform.
        UsageError: an index of several images, and no platform.
        IntegrityError: no row says where it is.
        StoreUnavailable: the store cannot be read.
    """
    with database.read() as connection:
        root, _ = resolve_in(connection, reference, at, visible)
        chosen, shown = image_of(connection, root, reference, platform)
        found = config_in(connection, chosen)
    return _read(store, shown, *found)


def history(
    database: Database,
    store: BlobStore,
    reference: Reference,
    *,
    platform: Platform | None = None,
    at: datetime | None = None,
    visible: Visibility | None = None,
) -> ImageHistory:
    """Read how an image was made, and put its layers beside it; see :func:`read_config` for what it raises.

    An image without a history, an artifact for one, has layers only.
    """
    with database.read() as connection:
        root, _ = resolve_in(connection, reference, at, visible)
        chosen, shown = image_of(connection, root, reference, platform)
        layers = layers_in(connection, chosen, reference.repository, shown)
        found = config_in(connection, chosen)
    config = _read(store, shown, *found)
    entries = config.details.history if config.details is not None else ()
    return ImageHistory(layers, config, align(entries, layers.layers))


def changes(first: ConfigDetails | None, second: ConfigDetails | None) -> tuple[Change, ...]:
    """Return what differs between two configurations beyond labels, history and layers.

    Each variable of the environment, each exposed port and each volume is one thing of its own:
    ``Env PATH``, ``ExposedPorts 80/tcp``. Other settings are compared whole, as ``Entrypoint``, lists as
    JSON. A configuration that is none says nothing.
    """
    return changes_of(_things(first), _things(second))


def _things(config: ConfigDetails | None) -> dict[str, str]:
    if config is None:
        return {}
    own = {name: getattr(config, name) for name in ("os", "architecture", "variant", "author")}
    found = {name: value for name, value in own.items() if value is not None}
    if config.created_at is not None:
        found["created"] = config.created_at.isoformat().replace("+00:00", "Z")
    for name, value in config.settings.items():
        found |= _setting(name, value)
    return found


def _setting(name: str, value: Any) -> Mapping[str, str]:
    lines = setting_lines(value)
    if name == "Env":
        variables = (line.partition("=") for line in lines)
        return {f"{name} {variable}": text for variable, _, text in variables}
    if isinstance(value, dict) and lines == tuple(sorted(value)):
        return {f"{name} {line}": "" for line in lines}
    if isinstance(value, list):
        # As a list: ["a b"] and ["a", "b"] are two commands.
        return {name: json.dumps(value, ensure_ascii=False)}
    return {name: lines[0]}


def _read(
    store: BlobStore, platform: str | None, image: Digest, media_type: str | None, blob: StoredBlob
) -> ReadConfig:
    details, problem = None, None
    if media_type not in media_types.IMAGE_CONFIGS:
        problem = f"{media_type} is not the configuration of an image"
    elif blob.size_bytes > MAX_CONFIG_BYTES:
        problem = f"{blob.size_bytes} bytes are more than are read of a configuration ({MAX_CONFIG_BYTES})"
    else:
        try:
            details = parse_details(_bytes(store, blob))
            problem = "the configuration cannot be understood" if details is None else None
        except DamagedBlob as error:  # what rows say of the image is worth showing all the same
            problem = f"{error}"
    return ReadConfig(image, platform, media_type, blob.digest, blob.size_bytes, details, problem)


def _bytes(store: BlobStore, blob: StoredBlob) -> bytes:
    content = bytearray()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_blob(store, blob) as stream:
        while got := stream.readinto(buffer):
            content += buffer[:got]
    return bytes(content)
