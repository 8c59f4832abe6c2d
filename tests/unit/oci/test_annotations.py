from __future__ import annotations

from datetime import UTC, datetime

import pytest

from regmeta.oci.annotations import Described, Labelled, described, names_of

OCI, OLD = "org.opencontainers.image.", "org.label-schema."
MADE = datetime(2024, 1, 2, tzinfo=UTC)
TEXTS = [name for name in Described.__dataclass_fields__ if name != "created_at"]


@pytest.mark.parametrize("name", TEXTS)
def test_each_source_of_a_field_yields_to_the_one_before_it(name: str) -> None:
    sources = [(where, key) for where in ("annotations", "labels") for key in names_of(name)]
    for number in range(len(sources)):
        pairs: dict[str, dict[str, str]] = {"annotations": {}, "labels": {}}
        for where, key in sources[number:]:
            pairs[where][key] = f"{where} {key}"
        found = described(Labelled(pairs["annotations"], pairs["labels"]))
        where, key = sources[number]
        assert getattr(found, name) == f"{where} {key}"


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_text_that_is_empty_says_nothing(nothing: str) -> None:
    image = Labelled({OCI + "title": nothing}, {OLD + "name": " label "})
    assert described(image).title == "label"


def test_image_that_says_nothing_is_described_by_nothing() -> None:
    assert described(Labelled()) == Described()


def test_index_is_asked_first_and_then_each_image_for_each_field_alone() -> None:
    index = Labelled({OCI + "title": "index"})
    first = Labelled({OCI + "title": "first"}, {OCI + "vendor": "first"})
    second = Labelled({OCI + "vendor": "second", OLD + "usage": "second"})
    found = described(index, [first, second])
    assert (found.title, found.vendor, found.documentation) == ("index", "first", "second")


def test_time_is_that_of_annotations_then_of_the_configuration_and_never_of_labels() -> None:
    labels = {OCI + "created": "2001-01-01T00:00:00Z"}
    assert described(Labelled({}, labels)).created_at is None
    assert described(Labelled({}, labels, MADE)).created_at == MADE
    old = {OLD + "build-date": "2002-01-01T00:00:00Z"}
    assert described(Labelled(old, labels, MADE)).created_at == datetime(2002, 1, 1, tzinfo=UTC)
    both = {**old, OCI + "created": "2003-01-01T00:00:00+00:00"}
    assert described(Labelled(both, labels, MADE)).created_at == datetime(2003, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("said", ["", "yesterday", "0001-01-01T00:00:00Z"])
def test_time_that_is_none_says_nothing(said: str) -> None:
    assert described(Labelled({OCI + "created": said}, {}, MADE)).created_at == MADE
    unknown = datetime(1, 1, 1, tzinfo=UTC)
    assert described(Labelled({}, {}, unknown), [Labelled({}, {}, MADE)]).created_at == MADE


def test_time_of_1970_is_a_time() -> None:
    """Builders that make the same bytes again say it on purpose."""
    said = Labelled({OCI + "created": "1970-01-01T00:00:00Z"}, {}, MADE)
    assert described(said).created_at == datetime(1970, 1, 1, tzinfo=UTC)
