"""Plans say what becomes of each tag; applying one does exactly that, or nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs

from regmeta import failpoints
from regmeta.app import Writing, collecting, open_for_writing
from regmeta.ingest.immutable import ImmutableTags
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.collect.run import collect
from regmeta.maintain.collect.terms import FOREVER
from regmeta.maintain.retention.apply import Applied, PlanOutdated, apply_plan, check_plan
from regmeta.maintain.retention.plan import Plan, make_plan
from regmeta.maintain.retention.policy import Policy, Rule, Untagged
from regmeta.maintain.retention.untagged import keeper_of_untagged
from regmeta.oci.digest import Digest
from regmeta.settings import KeepUntagged, Retention, RetentionPolicy, Settings
from tests.builders import AMD64, ARM64, LayoutBuilder, digest_of, make_layout
from tests.support.registry import AT_ONCE, change, dump, import_all, rows, scalar, tags
from tests.support.statements import Statements, counted

DAY = timedelta(days=1)
DAY_US = 86_400_000_000


def policy(*rules: Rule, repositories: tuple[str, ...] = ("**",), **said: Any) -> list[Policy]:
    return [Policy("a policy", repositories, rules, **said)]


def named(*names: str) -> list[Policy]:
    """Keep tags by their names only."""
    return policy(Rule("these", tags=names))


def decided(plan: Plan) -> dict[str, str]:
    return {decision.tag: decision.decision for decision in plan.decisions}


def dropped(plan: Plan) -> set[str]:
    return {decision.tag for decision in plan.decisions if decision.decision == "drop"}


def planned(writing: Writing, policies: list[Policy], **options: Any) -> Plan:
    return make_plan(writing.database, policies, writing.writer.immutable, **options)


def applied(writing: Writing, plan: Plan, policies: list[Policy]) -> list[Applied]:
    return apply_plan(writing.writer, plan.drop_plan, policies)


def push_days_ago(writing: Writing, tag: str, days: int) -> None:
    change(
        writing.database,
        "UPDATE tags SET started_at = started_at - :age WHERE name = :tag",
        age=days * DAY_US,
        tag=tag,
    )


def pull(writing: Writing, tag: str, days_ago: int = 0, repository: str = "app") -> None:
    """Count a pull of what a tag names now."""
    change(
        writing.database,
        "INSERT INTO pull_stats (repository_id, digest, tag, day, pulls, last_pulled_at)"
        " SELECT t.repository_id, t.manifest_digest, t.name, :day, 1, t.started_at - :age"
        " FROM tags t JOIN repositories r ON r.id = t.repository_id"
        " WHERE t.name = :tag AND t.ended_at IS NULL AND r.name = :repository",
        day=days_ago,
        age=days_ago * DAY_US,
        tag=tag,
        repository=repository,
    )


@pytest.fixture
def five(writing: Writing, layout: Path) -> dict[str, Digest]:
    """The tags v0 to v4, of five images; v0 is the newest."""
    found = make_layout(layout, 5)
    import_all(writing, layout)
    for number in range(5):
        push_days_ago(writing, f"v{number}", number)
    return found


# --- plans ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("five")
def test_plan_names_the_rule_that_keeps_each_tag_and_changes_nothing(
    writing: Writing, five: dict[str, Digest]
) -> None:
    before = dump(writing.database)
    policies = policy(Rule("last two", newest_pushed=2), Rule("fourth", tags=("v4",)))
    plan = planned(writing, policies)
    assert [(d.tag, d.decision, d.policy, d.rule, d.reason) for d in plan.decisions] == [
        ("v0", "keep", "a policy", "last two", "1st of 2 by push"),
        ("v1", "keep", "a policy", "last two", "2nd of 2 by push"),
        ("v2", "drop", "a policy", None, "no rule keeps it"),
        ("v3", "drop", "a policy", None, "no rule keeps it"),
        ("v4", "keep", "a policy", "fourth", "it is one of the rule's tags"),
    ]
    assert {decision.tag: decision.digest for decision in plan.decisions} == five
    assert dump(writing.database) == before


def test_tag_that_was_moved_counts_as_new(writing: Writing, five: dict[str, Digest]) -> None:
    set_tag(writing.writer, "app", "v4", five["v1"])  # an old image, under a tag of today
    assert dropped(planned(writing, policy(Rule("today", pushed_within=DAY / 2)))) == {"v1", "v2", "v3"}


@pytest.mark.usefixtures("five")
def test_pulls_count_for_the_digest_that_a_tag_names_now(writing: Writing, five: dict[str, Digest]) -> None:
    pull(writing, "v1")
    pull(writing, "v2")
    pull(writing, "v3", days_ago=9)
    set_tag(writing.writer, "app", "v2", five["v0"])  # was pulled as another image
    assert dropped(planned(writing, policy(Rule("used", newest_pulled=2)))) == {"v0", "v2", "v4"}
    assert dropped(planned(writing, policy(Rule("used", pulled_within=5 * DAY)))) == {"v0", "v2", "v3", "v4"}


@pytest.mark.usefixtures("five")
def test_where_no_pulls_are_counted_a_rule_about_pulls_drops_nothing(writing: Writing) -> None:
    assert dropped(planned(writing, policy(Rule("used", newest_pulled=1)))) == set()
    pull(writing, "v1")
    assert dropped(planned(writing, policy(Rule("used", newest_pulled=1)))) == {"v0", "v2", "v3", "v4"}


def test_platforms_are_those_of_an_image_and_of_all_that_an_index_lists(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    builder.tag(builder.image(platform=AMD64), "plain")
    builder.tag(builder.index([builder.image(platform=AMD64), builder.image(platform=ARM64)]), "multi")
    builder.tag(builder.index([builder.index([builder.image(platform=ARM64)])]), "nested")
    builder.tag(builder.artifact(b"x", "application/vnd.example"), "artifact")
    builder.write(layout)
    import_all(writing, layout)
    assert dropped(planned(writing, policy(Rule("arm", platforms=("linux/arm64",))))) == {"plain", "artifact"}
    assert dropped(planned(writing, policy(Rule("amd", platforms=("linux/amd64",))))) == {
        "nested",
        "artifact",
    }


@pytest.mark.inconsistent  # rows are changed that snapshots tell of
def test_referrers_and_subjects_are_those_that_are_here(
    writing: Writing, builder: LayoutBuilder, layout: Path
) -> None:
    signed, alone = builder.image(), builder.image()
    builder.tag(signed, "signed")
    builder.tag(alone, "alone")
    builder.tag(builder.artifact(b"s", "application/vnd.example.signature", signed))
    builder.tag(builder.artifact(b"t", "application/vnd.example.signature", alone), "late")
    digest = digest_of(alone).hex
    builder.tag(builder.artifact(b"u", "application/vnd.example"), f"sha256-{digest}.sig")
    builder.tag(builder.artifact(b"v", "application/vnd.example"), f"sha256-{'0' * 64}.sig")
    builder.write(layout)
    import_all(writing, layout)
    with_subject = planned(writing, policy(Rule("r", has_subject=True)))
    assert {tag for tag, what in decided(with_subject).items() if what == "keep"} == {
        "late",
        f"sha256-{digest}.sig",
    }
    referred = planned(writing, policy(Rule("r", has_referrers=True)))
    assert {tag for tag, what in decided(referred).items() if what == "keep"} == {"signed", "alone"}
    change(
        writing.database,
        "UPDATE manifests SET deleted_at = pushed_at, lease_until = pushed_at WHERE subject_digest = :of"
        " AND id NOT IN (SELECT manifest_id FROM tags WHERE ended_at IS NULL)",
        of=digest_of(signed).to_bytes(),
    )
    assert dropped(planned(writing, policy(Rule("r", has_referrers=True)))) >= {"signed"}


@pytest.mark.usefixtures("five")
def test_repository_that_no_policy_is_for_is_left_out_unless_it_is_asked_about(writing: Writing) -> None:
    policies = policy(Rule("none", tags=("x",)), repositories=("team/**",))
    assert planned(writing, policies).decisions == ()
    asked = planned(writing, policies, repositories=["app"])
    assert {(d.decision, d.policy, d.reason) for d in asked.decisions} == {
        ("keep", None, "no policy is for it")
    }
    assert asked.drop_plan.drops == {}


@pytest.mark.usefixtures("five")
def test_immutable_tags_are_kept_by_rules_of_the_settings_and_by_locks(writing: Writing) -> None:
    change(
        writing.database,
        "INSERT INTO tag_locks (repository_id, pattern, created_at, created_by)"
        " SELECT id, 'v1', created_at, 'x' FROM repositories",
    )
    rules = [ImmutableTags(("app",), ("v[34]",)), ImmutableTags(("other",), ("*",))]
    plan = make_plan(writing.database, named("v0"), rules)
    assert dropped(plan) == {"v2"}
    assert [(d.tag, d.reason) for d in plan.decisions if d.rule == "immutable"] == [
        ("v1", "the lock v1"),
        ("v3", str(rules[0])),
        ("v4", str(rules[0])),
    ]


def plan_counted(writing: Writing, policies: list[Policy]) -> Statements:
    with counted(writing.database.engine) as found:
        planned(writing, policies)
    return found


EVERYTHING = Rule(
    "all that there is",
    tags=("v*",),
    except_tags=("x*",),
    platforms=("linux/amd64",),
    newest_pushed=3,
    newest_pulled=3,
    newest_versions=3,
    pushed_within=DAY,
    pulled_within=DAY,
    has_referrers=True,
    has_subject=False,
)


def test_plan_sends_as_many_statements_for_60_tags_as_for_one(writing: Writing, tmp_path: Path) -> None:
    make_layout(tmp_path / "one", 1, platforms=[AMD64, ARM64], seed=1)
    import_all(writing, tmp_path / "one")
    one = plan_counted(writing, policy(EVERYTHING))
    make_layout(tmp_path / "many", 60, platforms=[AMD64, ARM64], seed=2)
    import_all(writing, tmp_path / "many")
    many = plan_counted(writing, policy(EVERYTHING))
    assert len(many) == len(one), f"{one}\n--\n{many}"
    assert len(one) <= 9, str(one)  # repositories, clock, identity; tags, pulls, platforms, subjects, ...
    assert many.writes == []
    assert len(plan_counted(writing, named("v1"))) <= 5


# --- applying ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("five")
def test_apply_does_exactly_the_plan_and_images_stay_by_digest(
    writing: Writing, five: dict[str, Digest]
) -> None:
    policies = policy(Rule("last two", newest_pushed=2))
    plan = planned(writing, policies)
    [done] = applied(writing, plan, policies)
    assert (done.repository, done.status, done.tags) == ("app", "applied", ("v2", "v3", "v4"))
    assert tags(writing.database) == {name: five[name] for name in ("v0", "v1")}
    assert {
        name for (name,) in rows(writing.database, "SELECT name FROM tags WHERE ended_by = 'tester'")
    } == {
        "v2",
        "v3",
        "v4",
    }
    events = rows(writing.database, "SELECT tag, actor, ingest_id FROM events WHERE kind = 'tag.removed'")
    assert {(tag, actor) for tag, actor, _ in events} == {(tag, "tester") for tag in done.tags}
    assert len({str(ingest_id) for _, _, ingest_id in events}) == 1
    assert scalar(writing.database, "SELECT count(*) FROM gc_tasks WHERE reason = 'untagged'") == 3
    assert scalar(writing.database, "SELECT count(*) FROM manifests") == 5
    assert scalar(writing.database, "SELECT count(*) FROM layout_outbox") == 0


@pytest.mark.usefixtures("five")
def test_plan_that_is_applied_again_has_one_effect(writing: Writing) -> None:
    policies = policy(Rule("last two", newest_pushed=2))
    plan = planned(writing, policies)
    applied(writing, plan, policies)
    before = dump(writing.database)
    assert [done.status for done in check_plan(writing.database, plan.drop_plan, policies, ())] == [
        "applied before"
    ]
    [again] = applied(writing, plan, policies)
    assert (again.status, again.tags) == ("applied before", ("v2", "v3", "v4"))
    assert dump(writing.database) == before


@pytest.mark.usefixtures("five")
def test_dry_run_says_what_apply_does_and_changes_nothing(writing: Writing) -> None:
    policies = named("v0")
    plan = planned(writing, policies)
    before = dump(writing.database)
    [told] = check_plan(writing.database, plan.drop_plan, policies, ())
    assert dump(writing.database) == before
    [done] = applied(writing, plan, policies)
    assert (told.status, done.status) == ("would be applied", "applied")
    assert told.tags == done.tags == ("v1", "v2", "v3", "v4")


def _new_tag(writing: Writing, five: dict[str, Digest]) -> None:
    set_tag(writing.writer, "app", "newcomer", five["v0"])


def _moved_tag(writing: Writing, five: dict[str, Digest]) -> None:
    set_tag(writing.writer, "app", "v4", five["v0"])


def _moved_there_and_back(writing: Writing, five: dict[str, Digest]) -> None:
    """Its digest is that of the plan, its interval is not."""
    set_tag(writing.writer, "app", "v4", five["v0"])
    set_tag(writing.writer, "app", "v4", five["v4"])


def _removed_tag(writing: Writing, five: dict[str, Digest]) -> None:
    remove_tag(writing.writer, "app", "v3")


def _removed_kept_tag(writing: Writing, five: dict[str, Digest]) -> None:
    """Another one comes up among the newest two."""
    remove_tag(writing.writer, "app", "v0")


def _locked_tag(writing: Writing, five: dict[str, Digest]) -> None:
    change(
        writing.database,
        "INSERT INTO tag_locks (repository_id, pattern, created_at, created_by)"
        " SELECT id, 'v3', created_at, 'x' FROM repositories",
    )


def _deleted_repository(writing: Writing, five: dict[str, Digest]) -> None:
    for tag in five:
        remove_tag(writing.writer, "app", tag)
    change(writing.database, "UPDATE repositories SET state = 'deleted', deleted_at = updated_at")


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        pytest.param(_new_tag, r"app:v1 would be dropped now, and is not in the plan", id="new tag"),
        pytest.param(_moved_tag, r"app:v1 would be dropped now.*; 1 more tags differ", id="moved tag"),
        pytest.param(_moved_there_and_back, r"app:v1 would be dropped now", id="moved there and back"),
        pytest.param(_removed_tag, r"app:v3 is in the plan, and has been removed", id="removed tag"),
        pytest.param(
            _removed_kept_tag, r"app:v2 is in the plan, and is kept now by last two", id="removed kept tag"
        ),
        pytest.param(_locked_tag, r"app:v3 is in the plan, and is kept now by immutable", id="locked tag"),
        pytest.param(
            _deleted_repository,
            r"app: no such repository any more",
            id="deleted repository",
            marks=pytest.mark.inconsistent,  # no snapshot says so
        ),
    ],
)
@pytest.mark.usefixtures("five")
def test_apply_refuses_where_something_has_changed(
    writing: Writing,
    five: dict[str, Digest],
    happens: Callable[[Writing, dict[str, Digest]], None],
    told: str,
) -> None:
    policies = policy(Rule("last two", newest_pushed=2))
    plan = planned(writing, policies)
    happens(writing, five)
    before = dump(writing.database)
    [foretold] = check_plan(writing.database, plan.drop_plan, policies, ())
    [refused] = applied(writing, plan, policies)
    assert (refused.status, foretold.status) == ("refused", "refused")
    assert str(refused.error) == str(foretold.error)
    assert isinstance(refused.error, PlanOutdated)
    assert re.match(told, str(refused.error)), str(refused.error)
    assert dump(writing.database) == before


def test_interval_is_compared_and_not_only_the_digest(writing: Writing, five: dict[str, Digest]) -> None:
    policies = named("v0")
    plan = planned(writing, policies)
    _moved_there_and_back(writing, five)
    [refused] = applied(writing, plan, policies)
    assert str(refused.error).startswith(f"app:v4 is {five['v4']} since ")
    assert tags(writing.database) == five


def test_change_that_changes_no_drop_stops_nothing(writing: Writing, five: dict[str, Digest]) -> None:
    policies = named("v0", "kept*")
    plan = planned(writing, policies)
    set_tag(writing.writer, "app", "kept-later", five["v4"])
    [done] = applied(writing, plan, policies)
    assert done.status == "applied"
    assert tags(writing.database) == {"v0": five["v0"], "kept-later": five["v4"]}


@pytest.mark.usefixtures("five")
def test_time_that_passes_between_plan_and_apply_drops_nothing_more(writing: Writing) -> None:
    policies = policy(Rule("young", pushed_within=2 * DAY + timedelta(hours=1)))
    plan = planned(writing, policies)
    change(writing.database, "UPDATE tags SET started_at = started_at - :age", age=DAY_US)  # it is tomorrow
    tomorrow = planned(writing, policies)
    assert (dropped(plan), dropped(tomorrow)) == ({"v3", "v4"}, {"v2", "v3", "v4"})
    change(writing.database, "UPDATE tags SET started_at = started_at + :age", age=DAY_US)
    as_of_yesterday = replace(plan.drop_plan, id=uuid4(), moment=plan.moment - DAY)
    [refused] = apply_plan(writing.writer, as_of_yesterday, policies)
    # As of the moment that the plan names.
    assert str(refused.error).startswith("app:v3 is in the plan, and is kept now")
    [done] = applied(writing, plan, policies)
    assert done.tags == ("v3", "v4")


@pytest.mark.usefixtures("five")
def test_plan_of_a_moment_that_is_yet_to_come_is_refused(writing: Writing) -> None:
    policies = policy(Rule("young", pushed_within=2 * DAY + timedelta(hours=1)))
    plan = planned(writing, policies)
    early = replace(plan.drop_plan, moment=plan.moment + DAY)
    with pytest.raises(PlanOutdated, match="yet to come"):
        check_plan(writing.database, early, policies, ())
    with pytest.raises(PlanOutdated, match="yet to come"):
        apply_plan(writing.writer, early, policies)
    assert set(tags(writing.database)) == {"v0", "v1", "v2", "v3", "v4"}


@pytest.mark.usefixtures("five")
def test_plan_for_other_policies_or_another_registry_is_refused(writing: Writing) -> None:
    policies = named("v0")
    plan = planned(writing, policies).drop_plan
    before = dump(writing.database)
    with pytest.raises(PlanOutdated, match="policies of the settings are not those"):
        apply_plan(writing.writer, plan, named("v0", "v1"))
    for identity in (
        replace(plan.identity, store_id=uuid4()),
        replace(plan.identity, database_id=uuid4()),
        replace(plan.identity, epoch=99),
    ):
        foreign = replace(plan, identity=identity)
        with pytest.raises(PlanOutdated, match="the plan is for the store"):
            apply_plan(writing.writer, foreign, policies)
        with pytest.raises(PlanOutdated, match="the plan is for the store"):
            check_plan(writing.database, foreign, policies, ())
    assert dump(writing.database) == before


def test_refusal_in_one_repository_leaves_the_others_to_be_done(
    writing: Writing, layout: Path, five: dict[str, Digest]
) -> None:
    import_all(writing, layout, "other")
    policies = named("v0")
    plan = planned(writing, policies)
    set_tag(writing.writer, "app", "v4", five["v0"])
    found = applied(writing, plan, policies)
    assert [(done.repository, done.status) for done in found] == [("app", "refused"), ("other", "applied")]
    assert tags(writing.database, "app").keys() == five.keys()
    assert tags(writing.database, "other").keys() == {"v0"}


def test_killed_between_two_repositories_the_same_plan_does_the_rest(
    writing: Writing, layout: Path, five: dict[str, Digest]
) -> None:
    import_all(writing, layout, "other")
    policies = named("v0")
    plan = planned(writing, policies)

    def stop(name: str) -> None:
        if name == "retention.committed":
            raise KeyboardInterrupt

    with failpoints.armed(stop), pytest.raises(KeyboardInterrupt):
        applied(writing, plan, policies)
    assert tags(writing.database, "other").keys() == five.keys()
    found = applied(writing, plan, policies)
    assert [(done.repository, done.status) for done in found] == [
        ("app", "applied before"),
        ("other", "applied"),
    ]
    assert tags(writing.database, "other").keys() == {"v0"}


def test_push_that_moves_a_tag_while_a_plan_waits_for_the_lock_keeps_it(
    writing: Writing, other_writer: Callable[[], Writing], five: dict[str, Digest]
) -> None:
    """Retention begins while the push holds the repository, and judges what the push has left."""
    other = other_writer()
    policies = named("v0")
    plan = planned(writing, policies)
    found: list[Applied] = []
    waits = threading.Thread(target=lambda: found.extend(applied(writing, plan, policies)))

    def push(name: str) -> None:
        if name == "tags.committing" and not waits.ident:
            waits.start()
            waits.join(0.3)  # it cannot end: the lock is held here
            assert waits.is_alive()

    with failpoints.armed(push):
        set_tag(other.writer, "app", "v4", five["v0"])
    waits.join(60)
    [refused] = found
    assert refused.status == "refused"
    assert tags(writing.database) == {**five, "v4": five["v0"]}


# --- what has no tag --------------------------------------------------------------------------


def _until(writing: Writing, untagged: Untagged, **said: Any) -> dict[Digest, Any]:
    keeper = keeper_of_untagged(policy(untagged=untagged, **said))
    assert keeper is not None
    with writing.database.read() as connection:
        ids: Any = rows(writing.database, "SELECT id, digest, repository_id FROM manifests")
        from regmeta import db

        found = keeper(connection, ids[0][2], "app", [number for number, *_ in ids], db.clock(connection))
    return {Digest.from_bytes(bytes(digest)): found[number] for number, digest, _ in ids if number in found}


@pytest.fixture
def untagged(writing: Writing, five: dict[str, Digest]) -> dict[str, Digest]:
    """Five images without a tag; v0 was pushed last."""
    for number, tag in enumerate(five):
        if tag != "v0":
            remove_tag(writing.writer, "app", tag)
        change(
            writing.database,
            "UPDATE manifests SET pushed_at = pushed_at - :age, lease_until = pushed_at WHERE digest = :of",
            age=number * DAY_US,
            of=five[tag].to_bytes(),
        )
    pull_of = "SELECT repository_id, digest, '', 1, 1, pushed_at FROM manifests WHERE digest = :of"
    change(writing.database, f"INSERT INTO pull_stats {_PULL_COLUMNS} {pull_of}", of=five["v4"].to_bytes())
    remove_tag(writing.writer, "app", "v0")
    return five


_PULL_COLUMNS = "(repository_id, digest, tag, day, pulls, last_pulled_at)"


def test_untagged_manifests_are_kept_by_any_term_of_the_policy(
    writing: Writing, untagged: dict[str, Digest]
) -> None:
    v0, v1, v2, _, v4 = untagged.values()
    assert _until(writing, Untagged(keeps_all=True)) == dict.fromkeys(untagged.values(), FOREVER)
    assert _until(writing, Untagged(newest_pushed=2)) == {v0: FOREVER, v1: FOREVER}
    assert _until(writing, Untagged(newest_pulled=2)) == {v4: FOREVER}
    assert _until(writing, Untagged(pulled_within=3 * DAY)) == {}
    assert _until(writing, Untagged(pulled_within=5 * DAY)).keys() == {v4}
    within = _until(writing, Untagged(pushed_within=3 * DAY))
    assert within.keys() == {v0, v1, v2}
    assert within[v0] - within[v2] == 2 * DAY
    assert _until(writing, Untagged(newest_pushed=1, pulled_within=5 * DAY)).keys() == {v0, v4}
    assert _until(writing, Untagged(newest_pushed=1, pushed_within=3 * DAY))[v0] == FOREVER


@pytest.mark.inconsistent  # rows are changed that snapshots tell of
def test_untagged_manifest_that_was_deleted_by_its_digest_is_kept_by_no_policy(
    writing: Writing, untagged: dict[str, Digest]
) -> None:
    change(
        writing.database,
        "UPDATE manifests SET deleted_at = pushed_at WHERE digest = :of",
        of=untagged["v0"].to_bytes(),
    )
    assert _until(writing, Untagged(keeps_all=True)).keys() == set(untagged.values()) - {untagged["v0"]}
    assert _until(writing, Untagged(newest_pushed=1)) == {untagged["v1"]: FOREVER}


def test_newest_untagged_are_counted_among_those_that_nothing_else_keeps(
    writing: Writing, untagged: dict[str, Digest]
) -> None:
    set_tag(writing.writer, "app", "again", untagged["v0"])
    assert _until(writing, Untagged(newest_pushed=1)) == {untagged["v1"]: FOREVER}


def test_untagged_is_not_asked_where_no_policy_keeps_any(
    writing: Writing, untagged: dict[str, Digest]
) -> None:
    assert keeper_of_untagged(policy()) is None
    assert _until(writing, Untagged(keeps_all=True), repositories=("team/**",)) == {}
    change(writing.database, "DELETE FROM pull_stats")
    assert len(_until(writing, Untagged(pulled_within=DAY))) == 5, "no pulls are counted: nothing is known"


def test_collector_heeds_what_the_settings_say_of_untagged_manifests_and_referrers(
    settings: Settings, builder: LayoutBuilder, layout: Path
) -> None:
    """From the settings to the deleted rows; ``kept/app`` has a policy, ``other`` has none."""
    subject = builder.image()
    builder.tag(subject, "subject")
    builder.tag(builder.image(), "older")
    newest = builder.image()
    builder.tag(newest, "newest")
    referrer = builder.artifact(b"s", "application/vnd.example.signature", subject)
    builder.tag(referrer)
    builder.write(layout)
    said = RetentionPolicy(
        repositories=("kept/**",), referrers="keep", untagged=KeepUntagged(newest_pushed=1)
    )
    chosen = structs.replace(settings, retention=Retention(policies=(said,)))
    with open_for_writing(chosen, lifetimes=AT_ONCE) as registry:
        for repository in ("kept/app", "other"):
            import_all(registry, layout, repository)
            for tag in ("subject", "older", "newest"):
                remove_tag(registry.writer, repository, tag)
        change(
            registry.database,
            "UPDATE manifests SET pushed_at = pushed_at + CASE digest WHEN :of THEN 1 ELSE 2 END"
            " WHERE digest IN (:of, :referrer)",
            of=digest_of(newest).to_bytes(),
            referrer=digest_of(referrer).to_bytes(),  # takes no place of the newest one
        )
        terms = collecting.terms_of(chosen, AT_ONCE)
        collect(registry.writer, registry.store, terms)
        left = rows(
            registry.database,
            "SELECT r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id",
        )
        assert {(name, Digest.from_bytes(bytes(digest))) for name, digest in left} == {
            ("kept/app", digest_of(newest)),
            ("kept/app", digest_of(referrer)),
        }
        put_off = rows(registry.database, "SELECT target_id FROM gc_tasks WHERE kind = 'manifest'")
        assert len(put_off) == 2, "both are looked at again: the policy may be another one then"
        collect(registry.writer, registry.store, terms)
        assert scalar(registry.database, "SELECT count(*) FROM manifests") == 2
