from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.oci.image_config import (
    MAX_CONFIG_BYTES,
    ConfigDetails,
    HistoryEntry,
    Step,
    align,
    parse,
    parse_details,
    setting_lines,
)
from tests.builders import dumps
from tests.unit.oci.test_strict_json import documents

MADE = datetime(2024, 2, 29, 12, tzinfo=UTC)


def details(**fields: Any) -> ConfigDetails:
    found = parse_details(dumps(fields))
    assert found is not None
    return found


# --- reading ----------------------------------------------------------------------------------


def test_all_that_people_look_at_is_read() -> None:
    found = details(
        author="me",
        os="linux",
        config={
            "Env": ["A=b"],
            "User": "",
            "Volumes": None,
            "ArgsEscaped": False,
            "Labels": {"a": "b", "c": 5},
            "Healthcheck": {"Test": ["CMD", "x"]},
        },
        history=[
            {"created": "2024-02-29T12:00:00Z", "created_by": "RUN x", "author": "me", "comment": "why"},
            {"created_by": "ENV A=b", "empty_layer": True},
        ],
    )
    assert (found.author, found.os, found.created_at, found.labels) == ("me", "linux", None, {"a": "b"})
    assert found.settings == {"Env": ["A=b"], "Healthcheck": {"Test": ["CMD", "x"]}}
    assert found.history == (
        HistoryEntry(MADE, "RUN x", "me", "why"),
        HistoryEntry(None, "ENV A=b", is_empty=True),
    )


@pytest.mark.parametrize("entry", [None, 5, [], "x", {"created": 5, "created_by": [], "empty_layer": "yes"}])
def test_entry_that_is_none_still_stands_for_a_layer(entry: object) -> None:
    assert details(history=[entry]).history == (HistoryEntry(),)


@pytest.mark.parametrize("history", [None, {}, 5, "x"])
def test_history_that_is_none_is_empty(history: object) -> None:
    assert details(history=history).history == ()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{}" + b" " * MAX_CONFIG_BYTES])
def test_configuration_that_cannot_be_understood_is_none(content: bytes) -> None:
    assert parse_details(content) is None


@given(documents)
def test_no_configuration_raises(document: object) -> None:
    content = dumps({"history": [document], "config": document, "rootfs": document, "created": document})
    found = parse_details(content)
    assert found is not None
    for value in found.settings.values():
        assert all(isinstance(line, str) for line in setting_lines(value))
    parse(content)


def test_time_of_creation_is_what_is_said_and_not_that_of_a_step() -> None:
    """Rows keep it: verify compares it with the configuration, and rows of before stay right."""
    steps = [{"created": f"2024-02-29T{hour}:00:00Z"} for hour in ("11", "12", "10")]
    assert parse(dumps({"history": steps})).created_at is None
    said = {"history": steps, "created": "2020-01-01T00:00:00Z"}
    assert parse(dumps(said)).created_at == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (["a", "b c"], ("a", "b c")),
        ({"80/tcp": {}, "443/tcp": {}}, ("443/tcp", "80/tcp")),
        ("text", ("text",)),
        (5, ("5",)),
        ({"Test": ["CMD"]}, ('{"Test": ["CMD"]}',)),
        ([["a"]], ('["a"]',)),
    ],
)
def test_setting_is_shown_as_lines(value: object, lines: tuple[str, ...]) -> None:
    assert setting_lines(value) == lines


# --- beside layers ----------------------------------------------------------------------------

RUN, COPY, ENV = HistoryEntry(created_by="RUN"), HistoryEntry(created_by="COPY"), HistoryEntry(is_empty=True)


def test_layers_stand_beside_the_steps_that_made_them() -> None:
    found = align([ENV, RUN, ENV, COPY, ENV], ["one", "two"])
    assert found.problem is None
    assert found.steps == (
        Step(ENV, None),
        Step(RUN, "one"),
        Step(ENV, None),
        Step(COPY, "two"),
        Step(ENV, None),
    )


@pytest.mark.parametrize("layers", [["one"], ["one", "two", "three"], []])
def test_where_numbers_differ_all_layers_are_listed_and_none_has_a_step(layers: list[str]) -> None:
    found = align([RUN, ENV, COPY], layers)
    assert found.problem == f"the history tells of 2 layers, the manifest has {len(layers)}"
    assert [step.layer for step in found.steps if step.layer is not None] == layers
    assert [step.entry for step in found.steps if step.entry is not None] == [RUN, ENV, COPY]
    assert all(step.layer is None or step.entry is None for step in found.steps)


def test_without_a_history_there_are_layers_and_no_problem() -> None:
    found = align([], ["one", "two"])
    assert (found.steps, found.problem) == ((Step(None, "one"), Step(None, "two")), None)


@given(st.lists(st.booleans()), st.lists(st.integers()))
def test_every_layer_and_every_step_is_listed_once_in_its_order(empty: list[bool], layers: list[int]) -> None:
    history = [HistoryEntry(comment=f"{number}", is_empty=is_empty) for number, is_empty in enumerate(empty)]
    found = align(history, layers)
    assert [step.entry for step in found.steps if step.entry is not None] == history
    assert [step.layer for step in found.steps if step.layer is not None] == layers
