"""The table of queries. A case draws its parameters, calls the public query, and asks the same by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from benchmarks.queries import by_hand
from benchmarks.queries.case import Case
from benchmarks.queries.parameters import Parameters, Tagged
from regmeta.oci.names import Reference
from regmeta.query import blobs as blob_queries
from regmeta.query import catalog, feed, tree
from regmeta.query.graph import lineage, members, prefixes, referrers, sharing
from regmeta.query.images import diff, layers, newest, summary
from regmeta.query.lists import blobs, manifests, repositories, tags
from regmeta.query.lists.manifests import ManifestFilter
from regmeta.query.lists.repositories import RepositoryFilter
from regmeta.query.lists.tags import TagFilter
from regmeta.query.search import run as search
from regmeta.query.statistics import favorites, growth, pulls, usage


def _by_tag(tagged: Tagged) -> Reference:
    return Reference(tagged.repository, tag=tagged.tag)


def _by_digest(tagged: Tagged) -> Reference:
    return Reference(tagged.repository, digest=tagged.digest)


def _drawn(pool: str) -> Callable[[Parameters], Any]:
    return lambda parameters: parameters.one_of(getattr(parameters, pool))


def _page_of_busy(parameters: Parameters) -> tuple[str, str]:
    return parameters.busy, f"nightly-{parameters.between(1, 1900):05d}"


def _prefix(parameters: Parameters) -> Any:
    return parameters.one_of(parameters.images).digest.hex[: parameters.between(7, 12)]


def _term(parameters: Parameters) -> Any:
    return parameters.one_of(parameters.words)


CASES: Final[tuple[Case, ...]] = (
    Case(
        "resolve a tag",
        _drawn("tags"),
        lambda database, of: catalog.resolve(database, _by_tag(of)),
        by_hand.resolve_tag,
        p50_ms=0.25,
        times_raw=25,
        steady=True,
    ),
    Case(
        "resolve a digest",
        _drawn("images"),
        lambda database, of: catalog.resolve(database, _by_digest(of)),
        by_hand.resolve_digest,
        p50_ms=0.25,
        times_raw=25,
        steady=True,
    ),
    Case(
        "first page of 20,000 tags",
        lambda parameters: (parameters.busy, ""),
        lambda database, of: tags.tags(database, of[0]),
        by_hand.tags_page,
        p50_ms=10,
        times_raw=5,
        steady=True,
    ),
    Case(
        "some page of 20,000 tags",
        _page_of_busy,
        lambda database, of: tags.tags(database, of[0], TagFilter(begins=of[1][:11])),
        steady=True,
    ),
    Case(
        "newest tags",
        lambda parameters: parameters.busy,
        lambda database, of: tags.tags(database, of, sort="tagged", descending=True),
        by_hand.newest_tags,
        times_raw=5,
        steady=True,
    ),
    Case(
        "newest manifests",
        lambda parameters: parameters.busy,
        lambda database, of: manifests.manifests(database, of, descending=True),
        by_hand.newest_manifests,
        times_raw=5,
        steady=True,
    ),
    Case(
        "newest manifests of all",
        lambda parameters: None,
        lambda database, of: manifests.manifests(database, descending=True),
        steady=True,
    ),
    Case(
        "manifests of all with a label",
        lambda parameters: (
            f"v{parameters.between(1, 3)}.{parameters.between(0, 9)}.{parameters.between(0, 9)}"
        ),
        lambda database, of: manifests.manifests(
            database, None, ManifestFilter(labels=(("org.opencontainers.image.version", of),))
        ),
    ),
    Case(
        "signed manifests of a repository",
        _drawn("repositories"),
        lambda database, of: manifests.manifests(database, of, ManifestFilter(signed=True)),
    ),
    Case(
        "page of repositories",
        _drawn("repositories"),
        lambda database, of: repositories.repositories(database, after=None),
        lambda raw, of: by_hand.repositories_page(raw, ""),
        times_raw=5,
    ),
    Case(
        "repositories that have a piece in the name",
        _term,
        lambda database, of: repositories.repositories(database, RepositoryFilter(contains=of)),
    ),
    Case(
        "largest blobs",
        lambda parameters: None,
        lambda database, of: blobs.blobs(database, sort="size", descending=True),
        by_hand.largest_blobs,
        times_raw=5,
        steady=True,
    ),
    Case(
        "image as a tree",
        _drawn("tags"),
        lambda database, of: tree.image(database, _by_tag(of)),
        by_hand.tree,
    ),
    Case(
        "summary of an image",
        _drawn("tags"),
        lambda database, of: summary.summary(database, _by_tag(of)),
        by_hand.summary,
    ),
    Case(
        "summaries of 20 images",
        lambda parameters: [_by_tag(parameters.one_of(parameters.tags)) for _ in range(20)],
        lambda database, of: summary.summaries(database, of),
    ),
    Case(
        "newest image of a repository",
        _drawn("repositories"),
        lambda database, of: newest.newest_image(database, of),
    ),
    Case(
        "repository at a glance",
        _drawn("repositories"),
        lambda database, of: newest.repository_summary(database, of),
    ),
    Case(
        "layers of an image",
        _drawn("images"),
        lambda database, of: layers.layers(database, _by_digest(of)),
    ),
    Case(
        "diff of two images",
        lambda parameters: [_by_digest(parameters.one_of(parameters.images)) for _ in range(2)],
        lambda database, of: diff.diff(database, *of),
    ),
    Case(
        "referrers of an image",
        _drawn("signed"),
        lambda database, of: referrers.referrers(database, of[0], of[1]),
        by_hand.referrers,
        p50_ms=5,
        steady=True,
    ),
    Case(
        "bases of an image",
        _drawn("images"),
        lambda database, of: lineage.bases(database, _by_digest(of)),
        by_hand.bases,
        p50_ms=5,
        steady=True,
    ),
    Case(
        "images derived from a base, first page",
        _drawn("bases"),
        lambda database, of: lineage.derived(database, _by_digest(of)),
        by_hand.derived,
        p50_ms=5,
    ),
    Case(
        "search: a word",
        _term,
        lambda database, of: search.search(database, of),
        p50_ms=5,
        p99_ms=50,
    ),
    Case(
        "search: repository:tag",
        lambda parameters: f"{_term(parameters)}:v1",
        lambda database, of: search.search(database, of),
        p50_ms=5,
        p99_ms=50,
    ),
    Case(
        "search: :tag",
        lambda parameters: f":{parameters.one_of(parameters.tags).tag[:4]}",
        lambda database, of: search.search(database, of),
        p50_ms=5,
        p99_ms=50,
    ),
    Case(
        "search: a digest's prefix",
        _prefix,
        lambda database, of: search.search(database, of),
        p50_ms=5,
        p99_ms=50,
    ),
    Case(
        "events, first page",
        lambda parameters: None,
        lambda database, of: feed.events(database),
        by_hand.events,
        steady=True,
    ),
    Case(
        "a repository",
        _drawn("repositories"),
        lambda database, of: catalog.repository(database, of),
    ),
    Case(
        "history of a tag",
        lambda parameters: (parameters.one_of(parameters.repositories), "latest"),
        lambda database, of: catalog.tag(database, *of),
    ),
    Case(
        "bytes of a manifest",
        _drawn("tags"),
        lambda database, of: tree.content(database, _by_tag(of)),
        steady=True,
    ),
    Case(
        "repositories, changed last",
        lambda parameters: None,
        lambda database, of: repositories.repositories(database, sort="updated", descending=True),
    ),
    Case(
        "repositories, the largest",
        lambda parameters: None,
        lambda database, of: repositories.repositories(database, sort="size", descending=True),
    ),
    Case(
        "tags of all repositories by name",
        lambda parameters: None,
        lambda database, of: tags.tags(database),
    ),
    Case(
        "glances at 20 repositories",
        lambda parameters: [parameters.one_of(parameters.repositories) for _ in range(20)],
        lambda database, of: newest.repository_summaries(database, of),
    ),
    Case(
        "images with the same layers",
        _drawn("images"),
        lambda database, of: lineage.same_layers(database, _by_digest(of)),
        p50_ms=5,
        steady=True,
    ),
    Case(
        "tree of referrers",
        _drawn("signed"),
        lambda database, of: referrers.referrer_tree(database, of[0], of[1]),
        p50_ms=5,
    ),
    Case(
        "children of an index",
        _drawn("tags"),
        lambda database, of: members.children(database, _by_tag(of)),
    ),
    Case(
        "indexes that list an image",
        _drawn("images"),
        lambda database, of: members.parents(database, of.repository, of.digest),
        p50_ms=5,
    ),
    Case(
        "digests by prefix",
        _prefix,
        lambda database, of: prefixes.digests(database, of),
        by_hand.digests,
        p50_ms=5,
        steady=True,
    ),
    Case(
        "a blob",
        _drawn("blobs"),
        lambda database, of: blob_queries.blob(database, of),
    ),
    Case(
        "repositories that hold a blob of a base",
        _drawn("shared"),
        lambda database, of: blob_queries.blob_repositories(database, of),
        p50_ms=5,
    ),
    Case(
        "manifests that name a blob of a base",
        _drawn("shared"),
        lambda database, of: blob_queries.blob_users(database, of),
        p50_ms=5,
    ),
    Case(
        "blobs that save the most",
        lambda parameters: None,
        lambda database, of: sharing.dedup(database),
        reports=True,
    ),
    Case(
        "pulls of an image",
        _drawn("tags"),
        lambda database, of: pulls.pulls(database, _by_tag(of)),
    ),
    Case(
        "most pulled repositories",
        lambda parameters: None,
        lambda database, of: pulls.top_repositories(database),
        reports=True,
    ),
    Case(
        "most pulled images",
        lambda parameters: None,
        lambda database, of: pulls.top_images(database),
        reports=True,
    ),
    Case(
        "who pushed to a repository",
        _drawn("repositories"),
        lambda database, of: pulls.pushers(database, of),
    ),
    Case(
        "stars and bookmarks of a user",
        _drawn("users"),
        lambda database, of: favorites.favorites(database, of),
    ),
    Case(
        "stars of a repository",
        _drawn("repositories"),
        lambda database, of: favorites.favorite_counts(database, of),
    ),
    Case(
        "usage of a repository, now",
        _drawn("repositories"),
        lambda database, of: usage.usage(database, of),
    ),
    Case(
        "usage by the newest samples, first page",
        lambda parameters: None,
        lambda database, of: usage.sampled_usage(database),
    ),
    Case(
        "growth of a repository",
        _drawn("repositories"),
        lambda database, of: growth.growth(database, of),
    ),
    Case(
        "growth of all",
        lambda parameters: None,
        lambda database, of: growth.growth(database),
        reports=True,
    ),
    Case(
        "where the feed ends",
        lambda parameters: None,
        lambda database, of: feed.newest_cursor(database),
    ),
    Case(
        "events of a repository",
        _drawn("repositories"),
        lambda database, of: feed.events(database, repository=of),
    ),
)
