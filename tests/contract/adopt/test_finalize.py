"""The end of an adoption: everything is kept until then, and is collected as anything else after."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Final

import pytest

from regmeta.app import open_for_writing
from regmeta.errors import Refused
from regmeta.maintain.collect.run import collect
from regmeta.oci.digest import Digest
from tests.contract.adopt.conftest import Adopting, OldDocker, refusal
from tests.support.clock import let_pass
from tests.support.registry import AT_ONCE

YEARS: Final = timedelta(days=4000)


@pytest.fixture
def images(old: OldDocker) -> tuple[Digest, Digest]:
    """One image with a tag, and one without."""
    return old.push("app", "v1"), old.push("app")


def collect_after(adoption: Adopting, length: timedelta) -> None:
    with open_for_writing(adoption.settings, lifetimes=AT_ONCE) as registry:
        let_pass(registry.database, length)
        for _ in range(3):
            collect(registry.writer, registry.store)


def test_all_that_was_brought_is_kept_until_it_is_finalized(
    adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    collect_after(adoption, YEARS)
    assert adoption.manifests("app") == set(images)
    assert adoption.unexplained(deep=True) == []


def test_what_no_tag_keeps_is_collected_after_it_was_finalized(
    adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    done = adoption.finalize()
    assert done.finalized_at is not None
    collect_after(adoption, timedelta(days=60))
    assert adoption.manifests("app") == {images[0]}
    assert adoption.tags("app") == {"v1": images[0]}


def test_what_is_at_work_is_still_kept_for_a_usual_lease(
    adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    adoption.finalize()
    with open_for_writing(adoption.settings) as registry:
        collect(registry.writer, registry.store)
    assert adoption.manifests("app") == set(images)


def test_change_since_the_last_run_refuses_it(
    old: OldDocker, adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    old.push("app", "v2")
    error = refusal(adoption.finalize)
    assert isinstance(error, Refused)
    assert "app changed since" in str(error)
    old.push("new", "v1")
    assert "app and 1 more changed since" in str(refusal(adoption.finalize))
    adoption.run()
    assert adoption.finalize().finalized_at is not None


def test_run_that_got_to_no_end_refuses_it(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "v1")
    adoption.run()
    with adoption.writing() as here, here.database.transaction("test") as connection:
        connection.exec_driver_sql("UPDATE adoptions SET completed_at = NULL")
    assert "no run has brought all of it" in str(refusal(adoption.finalize))


def test_unchecked_it_needs_no_source(
    old: OldDocker, adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    shutil.rmtree(old.root)
    refusal(adoption.finalize)
    assert adoption.finalize(unchecked=True).finalized_at is not None
    collect_after(adoption, timedelta(days=60))
    assert adoption.tags("app") == {"v1": images[0]}


def test_finalized_it_is_not_gone_on_with_unless_it_is_reopened(
    old: OldDocker, adoption: Adopting, images: tuple[Digest, Digest]
) -> None:
    adoption.run()
    adoption.finalize()
    error = refusal(adoption.run)
    assert isinstance(error, Refused)
    assert "--reopen" in str(error)
    new = old.push("app", "v2")
    adoption.run(reopen=True)
    assert adoption.tags("app") == {"v1": images[0], "v2": new}
    assert adoption.finalize().finalized_at is not None


def test_reopened_all_is_leased_again(adoption: Adopting, images: tuple[Digest, Digest]) -> None:
    adoption.run()
    adoption.finalize()
    adoption.run(reopen=True)
    collect_after(adoption, timedelta(days=60))
    assert adoption.manifests("app") == set(images)


def test_reopened_what_was_collected_comes_again(adoption: Adopting, images: tuple[Digest, Digest]) -> None:
    adoption.run()
    adoption.finalize()
    collect_after(adoption, timedelta(days=60))
    assert adoption.manifests("app") == {images[0]}
    adoption.run(reopen=True)
    assert adoption.manifests("app") == set(images)
    assert adoption.unexplained(deep=True) == []


def test_twice_is_as_once(adoption: Adopting, images: tuple[Digest, Digest]) -> None:
    adoption.run()
    first = adoption.finalize()
    second = adoption.finalize()
    assert second.finalized_at is not None
    assert first.finalized_at is not None
    assert second.finalized_at >= first.finalized_at
    assert adoption.manifests("app") == set(images)
