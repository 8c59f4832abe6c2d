"""Runs: what is the same is not looked at, what goes wrong in between is gone on with, and what is shared."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from regmeta.adopt.run import Run
from regmeta.db import Database
from regmeta.errors import DatabaseUnavailable, InvalidSource, Refused, UsageError
from regmeta.maintain.delete.repository import delete_repository
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.streams import read_up_to
from regmeta.settings import Lint
from regmeta.sources.storage.docker import DockerStorage
from tests.builders import ARM64, LayoutBuilder, digest_of
from tests.contract.adopt.conftest import Adopting, OldDocker, every_byte, refusal, rights_matter
from tests.support.old_registries.layouts import blob_path, zot_folder
from tests.support.old_registries.planting import turned
from tests.support.registry import open_parts
from tests.support.statements import Statements, counted

REPOSITORIES: Final = 50


def kinds(adoption: Adopting) -> set[tuple[str, str, str]]:
    return {(each.repository, each.kind, each.image or each.subject) for each in adoption.defects()}


# --- what is looked at ------------------------------------------------------------------------


@contextmanager
def all_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Statements]:
    """Count what runs send, whichever database object they open."""
    found = Statements()
    work = Run.run

    def run(self: Run) -> Any:
        with counted(self._writer.database.engine) as sent:
            report = work(self)
        found.texts += sent.texts
        return report

    with monkeypatch.context() as patched:
        patched.setattr(Run, "run", run)
        yield found


def test_second_run_of_unchanged_repositories_asks_once_for_each(
    old: OldDocker, adoption: Adopting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(REPOSITORIES):
        old.push(f"app/{number:02d}", "v1")
    assert adoption.run().brought == REPOSITORIES
    with all_counted(monkeypatch) as found:
        report = adoption.run()
    assert report.unchanged == REPOSITORIES
    assert len(found) <= REPOSITORIES + 5, str(found)
    assert len(found.writes) == 1, str(found)


def test_repository_that_changed_is_the_only_one_that_is_looked_at(
    old: OldDocker, adoption: Adopting
) -> None:
    for number in range(5):
        old.push(f"app/{number}", "v1")
    adoption.run()
    new = old.push("app/3", "v2")
    report = adoption.run()
    assert (report.unchanged, report.brought, report.here_already) == (4, 1, 1)
    assert adoption.tags("app/3")["v2"] == new


# --- defects that are mended, and that stay ---------------------------------------------------


def test_defect_that_was_mended_is_forgotten_and_one_that_stays_stays(
    old: OldDocker, adoption: Adopting
) -> None:
    lost, kept = old.push("app", "lost"), old.push("app", "kept")
    content = old.data(str(lost)).read_bytes()
    old.data(str(lost)).unlink()
    old.data(str(kept)).write_bytes(b"")
    adoption.run()
    assert {kind for _, kind, _ in kinds(adoption)} == {"missing-manifest", "damaged-manifest"}
    old.data(str(lost)).write_bytes(content)
    adoption.run(again=True)
    assert adoption.tags("app") == {"lost": lost}
    assert {kind for _, kind, _ in kinds(adoption)} == {"damaged-manifest"}


def test_oddity_of_an_image_that_is_here_stays_when_its_repository_changes_elsewhere(
    old: OldDocker, adoption: Adopting
) -> None:
    layer = old.layer()
    old.push("app", "v1", layer)
    old.layer_link("app", str(Digest.of(layer))).unlink()
    adoption.run()
    before = adoption.defects()
    assert [each.kind for each in before] == ["unlinked-blob"]
    old.push("app", "v2")
    assert adoption.run().brought == 1
    assert [(each.kind, each.image) for each in adoption.defects()] == [("unlinked-blob", "v1")]


def test_index_is_completed_when_its_child_is_mended(
    adopt: Callable[[Path], Adopting], tmp_path: Path
) -> None:
    builder = LayoutBuilder()
    child = builder.image(platform=ARM64)
    index = builder.index([builder.image(), child])
    builder.tag(index, "v1")
    layout = builder.write(tmp_path / "old/app")
    blob_path(layout, child["digest"]).unlink()
    adoption = adopt(tmp_path / "old")
    adoption.run()
    assert kinds(adoption) == {("app", "broken-index-child", "v1")}
    assert digest_of(child) not in adoption.manifests("app")
    blob_path(layout, child["digest"]).write_bytes(builder.blobs[child["digest"]])
    report = adoption.run(again=True)
    assert report.brought == 1
    assert digest_of(child) in adoption.manifests("app")
    assert kinds(adoption) == set()


# --- bytes that are wrong ---------------------------------------------------------------------


def test_damage_that_only_reading_finds_leaves_out_what_needs_it_and_nothing_else(
    old: OldDocker, adoption: Adopting
) -> None:
    bad = old.layer()
    old.push("one", "bad", bad)
    old.push("two", "bad", bad, old.layer())
    good = [old.push("one", "good"), old.push("two", "good")]
    old.data(str(Digest.of(bad))).write_bytes(turned(bad))
    report = adoption.run()
    assert report.left_out == 2
    assert [adoption.tags("one"), adoption.tags("two")] == [{"good": digest} for digest in good]
    assert kinds(adoption) == {("one", "damaged-blob", "bad"), ("two", "damaged-blob", "bad")}
    assert adoption.unexplained(deep=True) == []


def test_index_of_indexes_with_one_damaged_leaf_comes_without_it(old: OldDocker, adoption: Adopting) -> None:
    builder = LayoutBuilder()
    bad = old.layer()
    leaves = [builder.image([old.layer()]), builder.image([bad]), builder.image([old.layer()])]
    inner = [builder.index(leaves[:2]), builder.index(leaves[2:])]
    top = old.push_made("app", "v1", builder, builder.index(inner))
    old.data(str(Digest.of(bad))).write_bytes(turned(bad))
    adoption.run()
    assert adoption.tags("app") == {"v1": top}
    expected = {top, *map(digest_of, inner), digest_of(leaves[0]), digest_of(leaves[2])}
    assert adoption.manifests("app") == expected
    found = {(each.kind, each.image, each.subject) for each in adoption.defects()}
    leaf = leaves[1]["digest"]
    assert ("broken-index-child", "v1", leaf) in found
    assert ("damaged-blob", leaf, str(Digest.of(bad))) in found
    assert adoption.unexplained(deep=True) == []


def test_two_manifests_that_contradict_each_other_leave_out_the_wrong_one(
    old: OldDocker, adoption: Adopting
) -> None:
    builder = LayoutBuilder()
    layer = builder.layer(old.layer())
    right = builder.image([layer])
    wrong = builder.image([{**layer, "size": layer["size"] + 1}])
    for number in range(3):
        old.push_made("app", f"right-{number}", builder, right)
        old.push_made("app", f"wrong-{number}", builder, wrong)
    adoption.run()
    assert set(adoption.tags("app")) == {"right-0", "right-1", "right-2"}
    assert {(kind, image) for _, kind, image in kinds(adoption)} == {
        ("damaged-blob", "wrong-0"),
        ("damaged-blob", "wrong-1"),
        ("damaged-blob", "wrong-2"),
    }


@pytest.mark.parametrize("content", [b"", b"cut", None])
def test_blob_that_is_cut_between_look_and_read_is_found(
    old: OldDocker, adoption: Adopting, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    bad = old.layer()
    old.push("app", "bad", bad)
    good = old.push("app", "good")
    path = old.data(str(Digest.of(bad)))
    work = DockerStorage.open

    def cut_and_open(self: DockerStorage, name: str, digest: Digest) -> Any:
        if digest == Digest.of(bad):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        return work(self, name, digest)

    monkeypatch.setattr(DockerStorage, "open", cut_and_open)
    adoption.run()
    assert adoption.tags("app") == {"good": good}
    assert {kind for _, kind, _ in kinds(adoption)} <= {"damaged-blob", "missing-blob"}
    assert adoption.unexplained(deep=True) == []


@pytest.mark.parametrize("is_cut", [False, True])
def test_blob_that_is_broken_there_and_whole_here_comes(
    old: OldDocker, adoption: Adopting, is_cut: bool
) -> None:
    layer = old.layer()
    old.push("one", "v1", layer)
    adoption.run()
    second = old.push("two", "v1", layer)
    file = old.data(str(Digest.of(layer)))
    file.unlink()  # the file here is the same one: it stays
    if is_cut:
        file.write_bytes(layer[:-1])
    adoption.run()
    assert adoption.tags("two") == {"v1": second}
    assert adoption.unexplained(deep=True) == []


HOSTILE: Final[dict[str, tuple[bytes, str]]] = {
    "nested without end": (
        b'{"schemaVersion":2,"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "invalid-manifest",
    ),
    "too large": (b'{"layers":[],"x":"' + b"y" * (5 << 20) + b'"}', "invalid-manifest"),
    "no object": (b"[]", "invalid-manifest"),
    "nothing": (b"{}", "unknown-media-type"),
    "no text": (b"\xff\xfe{}", "invalid-manifest"),
    "a name twice": (b'{"schemaVersion":2,"schemaVersion":1,"layers":[]}', "invalid-manifest"),
    "a path for a digest": (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"config":'
        b'{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:../../x","size":1}}',
        "invalid-manifest",
    ),
    "a number of 400 digits": (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"config":'
        b'{"mediaType":"a/b","digest":"sha256:' + b"0" * 64 + b'","size":' + b"9" * 400 + b"}}",
        "invalid-manifest",
    ),
}


def test_hostile_manifests_are_named_and_stop_nothing(old: OldDocker, adoption: Adopting) -> None:
    good = old.push("app", "good")
    for number, (content, _) in enumerate(HOSTILE.values()):
        digest = str(Digest.of(content))
        old.manifest("app", digest, content)
        old.tag("app", f"v{number}", digest)
    adoption.run()
    assert adoption.tags("app") == {"good": good}
    assert kinds(adoption) == {
        ("app", kind, f"v{number}") for number, (_, kind) in enumerate(HOSTILE.values())
    }
    assert adoption.unexplained() == []


@pytest.mark.soak_on_postgresql
def test_index_that_lists_thousands_that_are_not_there_comes_alone(
    old: OldDocker, adoption: Adopting
) -> None:
    builder = LayoutBuilder()
    children = [
        {"mediaType": media_types.OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 100}
        for number in range(2000)
    ]
    index = builder.index(children)
    old.manifest("app", index["digest"], builder.blobs[index["digest"]])
    old.tag("app", "v1", index["digest"])
    assert adoption.run().brought == 1
    assert adoption.tags("app") == {"v1": digest_of(index)}
    found = adoption.defects()
    assert {each.kind for each in found} == {"broken-index-child"}
    assert len(found) == 100
    assert any("and 1900 more" in each.detail for each in found)


def test_what_is_no_file_is_never_opened(old: OldDocker, adoption: Adopting) -> None:
    good = old.push("app", "good")
    link, pipe = (old.data(str(old.push("app", tag))) for tag in ("link", "pipe"))
    link.rename(link.with_name("elsewhere"))
    link.symlink_to(link.with_name("elsewhere"))
    pipe.unlink()
    os.mkfifo(pipe)
    (old.v2 / "repositories/loop").symlink_to(old.v2 / "repositories")
    adoption.run()
    assert adoption.tags("app") == {"good": good}
    assert {("app", "unreadable", "link"), ("app", "unreadable", "pipe")} <= kinds(adoption)
    assert {kind for _, kind, _ in kinds(adoption)} == {"unreadable"}


# --- what others do meanwhile -----------------------------------------------------------------


def test_push_during_the_run_comes_with_the_next_one(
    old: OldDocker, adoption: Adopting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        old.push("app", f"v{number}")
    once = iter((True,))
    work = DockerStorage.descriptor

    def push_and_describe(self: DockerStorage, name: str, digest: Digest) -> Any:
        if next(once, False):
            old.push("app", "new")
            old.untag("app", "v0")
        return work(self, name, digest)

    monkeypatch.setattr(DockerStorage, "descriptor", push_and_describe)
    adoption.run()
    assert "new" not in adoption.tags("app")
    assert isinstance(refusal(adoption.finalize), Refused)
    report = adoption.run()
    assert (report.brought, report.removed_tags) == (1, 1)
    assert set(adoption.tags("app")) == {"new", "v1", "v2"}
    assert adoption.unexplained() == []


def test_database_that_goes_away_in_the_middle_loses_nothing(
    old: OldDocker, adoption: Adopting, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {f"app/{number}": {"v1": old.push(f"app/{number}", "v1")} for number in range(12)}
    work, calls = Database.transaction, []

    def failing(self: Database, name: str, *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if calls.count("adoption_step") == 5 and name == "adoption_step":
            raise DatabaseUnavailable("gone")
        return work(self, name, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "transaction", failing)
        assert isinstance(refusal(adoption.run), DatabaseUnavailable)
    assert isinstance(refusal(adoption.finalize), Refused)
    report = adoption.run()
    assert report.brought < 12
    assert {name: adoption.tags(name) for name in expected} == expected
    assert adoption.unexplained(deep=True) == []


def test_three_runs_at_once_do_what_one_does(old: OldDocker, adoption: Adopting) -> None:
    expected: dict[str, dict[str, Digest]] = {}
    for number in range(30):
        name, tag = f"app/{number % 5}", f"v{number}"
        expected.setdefault(name, {})[tag] = old.push(name, tag)
    with ThreadPoolExecutor(3) as pool:
        reports = [each.result() for each in [pool.submit(adoption.run) for _ in range(3)]]
    assert [report.failures for report in reports] == [{}, {}, {}]
    assert {name: adoption.tags(name) for name in expected} == expected
    assert adoption.run().left_out == 0
    assert (adoption.defects(), adoption.unexplained(deep=True)) == ([], [])


# --- rules here -------------------------------------------------------------------------------


def test_image_that_breaks_a_rule_here_is_refused_and_stops_nothing(
    old: OldDocker, adoption: Adopting
) -> None:
    builder = LayoutBuilder()
    good = old.push_made("app", "good", builder, builder.image(annotations={"team": "a"}))
    old.push("app", "bad")
    lint = Lint(mandatory_annotations=("team",))
    strict = replace(adoption, settings=msgspec.structs.replace(adoption.settings, lint=lint))
    assert strict.run().left_out == 1
    assert adoption.tags("app") == {"good": good}
    assert kinds(adoption) == {("app", "refused-here", "bad")}
    assert adoption.unexplained() == []
    assert adoption.run(again=True).brought == 1
    assert (kinds(adoption), adoption.unexplained()) == (set(), [])


def test_repository_that_was_deleted_here_is_a_difference(old: OldDocker, adoption: Adopting) -> None:
    old.push("app", "v1")
    other = old.push("other", "v1")
    adoption.run()
    with adoption.writing() as here:
        delete_repository(here.writer, "app")
    assert adoption.run().brought == 0
    assert adoption.tags("other") == {"v1": other}
    assert {(source, kind) for source, kind, _ in adoption.unexplained()} == {("app", "missing")}


def test_repository_that_was_deleted_here_comes_back_only_when_that_is_asked_for(
    old: OldDocker, adoption: Adopting
) -> None:
    first = old.push("app", "v1")
    adoption.run()
    with adoption.writing() as here:
        delete_repository(here.writer, "app")
    second = old.push("app", "v2")
    for again in (False, True):
        report = adoption.run(again=again)
        assert (report.brought, adoption.tags("app")) == (0, {})
        assert kinds(adoption) == {("app", "refused-here", "app")}
    adoption.run(overwrite=True)
    assert adoption.tags("app") == {"v1": first, "v2": second}
    assert (kinds(adoption), adoption.unexplained()) == (set(), [])


# --- where it goes ----------------------------------------------------------------------------


def test_prefix_is_where_everything_goes(old: OldDocker, adoption: Adopting) -> None:
    digest = old.push("app", "v1")
    assert [each.destination for each in adoption.plan(prefix="moved/in").repositories] == ["moved/in/app"]
    adoption.run(prefix="moved/in")
    assert adoption.tags("moved/in/app") == {"v1": digest}
    assert adoption.tags("app") == {}
    assert adoption.unexplained() == []
    assert isinstance(refusal(adoption.run), Refused)
    for bad in ("UPPER", "a//b", "a/", "/a"):
        for work in (adoption.run, adoption.plan):
            assert isinstance(refusal(partial(work, prefix=bad)), UsageError)


def test_name_that_is_too_long_below_the_prefix_is_a_defect(old: OldDocker, adoption: Adopting) -> None:
    name = "/".join(["a" * 50] * 4)
    old.push(name, "v1")
    good = old.push("app", "v1")
    prefix = "b" * 100
    plan = adoption.plan(prefix=prefix)
    assert [(where, found.defect.kind) for where, found in plan.defects] == [(name, "bad-repository-name")]
    adoption.run(prefix=prefix)
    assert adoption.tags(f"{prefix}/app") == {"v1": good}
    assert kinds(adoption) == {(name, "bad-repository-name", name)}
    assert adoption.unexplained() == []
    [found] = [each for each in adoption.verify() if each.source == name]
    assert {item.explained_by for item in found.differences} == {"bad-repository-name"}
    assert found.differences[0].subject == "v1"


def test_two_sources_with_one_name_need_a_prefix(
    old: OldDocker, adopt: Callable[[Path], Adopting], tmp_path: Path
) -> None:
    other = OldDocker(tmp_path / "other")
    first = old.push("app", "v1")
    old.push("app", "mine")
    second = other.push("app", "v1", b"another")
    adopt(old.root).run()
    adoption = adopt(other.root)
    report = adoption.run()
    assert kinds(adoption) == {("app", "refused-here", "app")}
    assert report.failures == {}
    assert adoption.tags("app")["v1"] == first
    assert adoption.unexplained() == []
    third = replace(adoption, root=tmp_path / "third")
    shutil.copytree(other.root, third.root)
    third.run(prefix="other")
    assert adoption.tags("other/app") == {"v1": second}


# --- what is no source ------------------------------------------------------------------------


def make_empty(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_bytes(b"no folder")


def make_other_folder(path: Path) -> None:
    (path / "some/where").mkdir(parents=True)
    (path / "some/where/index.json").write_bytes(b"{}")


def make_nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("make", [make_nothing, make_empty, make_file, make_other_folder])
def test_what_is_no_storage_is_refused_and_leaves_no_row(
    adopt: Callable[[Path], Adopting], tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x")
    adoption = adopt(tmp_path / "x")
    for work in (adoption.plan, adoption.run):
        error = refusal(work)
        assert isinstance(error, InvalidSource)
        assert str(tmp_path / "x") in str(error)
    assert adoption.rows("SELECT count(*) FROM adoptions") == [(0,)]


def test_store_here_is_no_source_for_itself(
    old: OldDocker, adoption: Adopting, adopt: Callable[[Path], Adopting]
) -> None:
    old.push("app", "v1")
    adoption.run()
    store = Path(adoption.settings.store)
    inside = OldDocker(store / "old")
    inside.push("app", "v1")
    try:
        error = refusal(adopt(store / "old").run)
        assert isinstance(error, UsageError)
        assert "in the store here" in str(error)
    finally:
        shutil.rmtree(store / "old")


def test_folder_that_may_not_be_read_is_named_and_stops_nothing(old: OldDocker, adoption: Adopting) -> None:
    old.push("closed", "v1")
    good = old.push("open", "v1")
    folder = old.folder("closed") / "_manifests"
    folder.chmod(0)
    try:
        with rights_matter(adoption):
            report = adoption.run()
    finally:
        folder.chmod(0o755)
    assert not report.failures
    assert kinds(adoption) == {("closed", "unreadable", "closed")}
    assert adoption.tags("open") == {"v1": good}
    assert adoption.run().brought == 1
    assert kinds(adoption) == set()
    with rights_matter(adoption):
        folder.chmod(0)
        try:
            assert adoption.run().removed_tags == 0
        finally:
            folder.chmod(0o755)
    assert set(adoption.tags("closed")) == {"v1"}


def test_file_that_may_not_be_read_leaves_out_its_image_only(old: OldDocker, adoption: Adopting) -> None:
    layer = old.layer()
    old.push("app", "closed", layer)
    closed = old.push("app", "manifest")
    good = old.push("app", "good")
    for path in (old.data(str(Digest.of(layer))), old.data(str(closed))):
        path.chmod(0)
    with rights_matter(adoption):
        report = adoption.run()
    assert report.left_out == 2
    assert adoption.tags("app") == {"good": good}
    assert {kind for _, kind, _ in kinds(adoption)} == {"unreadable"}
    for path in (old.data(str(Digest.of(layer))), old.data(str(closed))):
        path.chmod(0o644)


# --- bytes ------------------------------------------------------------------------------------


def objects_of(adoption: Adopting) -> dict[Digest, os.stat_result]:
    found = adoption.rows("SELECT digest, key FROM blobs")
    root = Path(adoption.settings.store) / "blobs"
    return {Digest.from_bytes(bytes(digest)): (root / key).stat() for digest, key in found}


def test_hard_links_keep_one_file_and_the_old_tree_is_as_it_was(old: OldDocker, adoption: Adopting) -> None:
    layers = [old.layer() for _ in range(4)]
    for layer in layers:
        old.push("app", f"v{layers.index(layer)}", layer)
    before = every_byte(old.root)
    report = adoption.run()
    assert report.linked_bytes > 0
    assert every_byte(old.root) == before
    here = objects_of(adoption)
    for layer in layers:
        theirs = old.data(str(Digest.of(layer))).stat()
        mine = here[Digest.of(layer)]
        is_clone = theirs.st_nlink == 1  # where the file system can
        assert is_clone or (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino)
    shutil.rmtree(old.root)
    with closing(open_parts(adoption.settings)[1]) as store:
        for (key,) in adoption.rows("SELECT key FROM blobs"):
            with store.open(key) as stream:
                assert read_up_to(stream, 1 << 20)


def test_copies_are_files_of_their_own(old: OldDocker, adoption: Adopting) -> None:
    layer = old.layer()
    old.push("app", "v1", layer)
    before = every_byte(old.root)
    report = adoption.run(links=False)
    assert report.linked_bytes == 0
    mine, theirs = objects_of(adoption)[Digest.of(layer)], old.data(str(Digest.of(layer))).stat()
    assert mine.st_ino != theirs.st_ino
    assert theirs.st_nlink == 1
    assert every_byte(old.root) == before


def test_adoption_of_zot_leaves_it_as_it_was(adopt: Callable[[Path], Adopting], tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", 6)
    before = every_byte(served.root)
    adoption = adopt(served.root)
    adoption.plan()
    adoption.run()
    adoption.verify(deep=True)
    adoption.finalize()
    assert every_byte(served.root) == before


@pytest.mark.soak_on_postgresql
@pytest.mark.slow
def test_many_tags_of_one_repository_come_in_pieces_and_go_on_where_they_were(
    old: OldDocker, adoption: Adopting, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = old.add_tags("app", 2500)
    old.push("app")
    stop = threading.Event()
    work, steps = Database.transaction, []

    def failing(self: Database, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "adoption_step":
            steps.append(name)
            if len(steps) == 3:
                stop.set()
                raise DatabaseUnavailable("gone")
        return work(self, name, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "transaction", failing)
        refusal(adoption.run)
    assert stop.is_set()
    [(state, cursor)] = adoption.rows("SELECT state, cursor FROM adoption_repositories")
    assert (state, cursor) == ("partial", "build-001999")
    report = adoption.run()
    assert report.here_already + report.brought < 1000
    assert adoption.tags("app") == expected
    assert msgspec.to_builtins(report.failures) == {}
