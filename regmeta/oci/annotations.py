"""What an image says of itself: title, description, licences and so on, whoever wrote it and where.

Each field is looked for in this order, and the first text that is not empty is taken:

1. the manifest's annotation ``org.opencontainers.image.*`` (image-spec ``annotations.md``);
2. the manifest's annotation of the older ``org.label-schema.*`` (``annotations.md``, "Back-compatibility");
3. the configuration's label of the first name;
4. the configuration's label of the second name.

An index has no configuration: its own annotations come first, then its images are asked one after the
other, in the order in which it lists them, each by the whole order above. An image that does not say a field
is passed over for that field only.

The time of creation is looked for in the annotations (1, 2) and then in the configuration's ``created``.
Labels are left out here, since an image inherits those of its base: they would tell when the base was made. A
time that is none, or that is the year 1, which builders
write for "unknown", says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from regmeta.oci.image_config import parse_time

OCI: Final = "org.opencontainers.image."
LABEL_SCHEMA: Final = "org.label-schema."
# annotations.md has this table; "license" is not in it, but is what people wrote.
_OLDER_NAMES: Final[Mapping[str, str | None]] = {
    "title": "name",
    "description": "description",
    "licenses": "license",
    "vendor": "vendor",
    "source": "vcs-url",
    "documentation": "usage",
    "url": "url",
    "version": "version",
    "revision": "vcs-ref",
    "authors": None,
    "created": "build-date",
}


def names_of(field_name: str) -> tuple[str, ...]:
    """Return the names under which a field may be said, the first one first."""
    older = _OLDER_NAMES[field_name]
    return (OCI + field_name,) if older is None else (OCI + field_name, LABEL_SCHEMA + older)


NAMES: Final = tuple(name for field_name in _OLDER_NAMES for name in names_of(field_name))
"""Every name that :func:`described` looks for."""
VENDOR_NAMES: Final = names_of("vendor")


@dataclass(frozen=True, slots=True)
class Labelled:
    """What one manifest has to say: its annotations, and its configuration's labels and time of creation."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    config_created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """What an image says of itself; a field that it does not say is None."""

    title: str | None = None
    description: str | None = None
    licenses: str | None = None
    vendor: str | None = None
    source: str | None = None
    documentation: str | None = None
    url: str | None = None
    version: str | None = None
    revision: str | None = None
    authors: str | None = None
    created_at: datetime | None = None


def described(image: Labelled, children: Iterable[Labelled] = ()) -> Described:
    """Return what an image says of itself, or an index of *children*, in its order. Never raises."""
    asked = (image, *children)
    texts = {name: next(_said(asked, name), None) for name in _OLDER_NAMES if name != "created"}
    return Described(**texts, created_at=next(_created(asked), None))


def _said(asked: Iterable[Labelled], field_name: str) -> Iterator[str]:
    names = names_of(field_name)
    for item in asked:
        for pairs in (item.annotations, item.labels):
            for name in names:
                if text := pairs.get(name, "").strip():
                    yield text


def _created(asked: Iterable[Labelled]) -> Iterator[datetime]:
    for item in asked:
        said = [parse_time(item.annotations.get(name)) for name in names_of("created")]
        for at in (*said, item.config_created_at):
            if at is not None and at.year > 1:
                yield at
