"""Wiring of mirroring: policies and remote registries, from the settings.

What speaks to registries is imported where one is opened: commands that mirror nothing do not wait for it.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from regmeta.errors import UsageError
from regmeta.oci.remote_names import RemoteReference
from regmeta.settings import Content, Settings, SyncRegistry, duration
from regmeta.sync.mapping import collision
from regmeta.sync.policy import Backoff, ContentRule, Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regmeta.sources.registry.transport import Endpoint
    from regmeta.sources.registry.upstream import Upstream

FIRST_RETRY: Final = timedelta(minutes=1)
LONGEST_RETRY: Final = timedelta(hours=1)


def policies_of(settings: Settings) -> tuple[Policy, ...]:
    """Return the policies that the settings say.

    Raises:
        UsageError: of one policy two repositories would go to one place.
    """
    policies = tuple(_policy(registry) for registry in settings.sync.registries)
    for policy in policies:
        found = collision(policy)
        if found is not None:
            raise UsageError(
                f"settings: sync registry {policy.name!r}: content: {found.wins} and {found.loses} would both"
                f" be mirrored as {found.local}"
            )
    return policies


def upstream_of(settings: Settings, policy_name: str, stopped: threading.Event | None = None) -> Upstream:
    """Return the registry of a policy, ready to be asked; nothing is asked yet. The caller closes it.

    When *stopped* is set, waits end.

    Raises:
        UsageError: there is no such policy, or its credentials file or its certificates cannot be read.
    """
    for registry in settings.sync.registries:
        if registry.name == policy_name:
            return _opened(registry, stopped)
    raise UsageError(f"{policy_name}: the settings name no such registry (see [[sync.registries]])")


def for_reference(
    settings: Settings,
    reference: RemoteReference,
    stopped: threading.Event | None = None,
    *,
    plain_http: bool = False,
) -> tuple[Policy, Upstream]:
    """Return what holds for one image that is asked for by its name, and its registry. The caller closes it.

    A registry of the settings, whose first URL names the same host, is spoken to as they say, and what they
    say of platforms, signatures and conversion holds; of another one the defaults do. The policy is named
    after the host and wants no repositories of itself.

    Raises:
        UsageError: the credentials file or the certificates cannot be read.
    """
    base = replace(reference, scheme="http") if plain_http else reference
    registry = _named_or_default(settings, base)
    policy = replace(_policy(registry), name=reference.host, content=())
    return policy, _opened(registry, stopped)


def endpoint_of(settings: Settings, url: str, stopped: threading.Event | None = None) -> Endpoint:
    """Return what asks the registry at *url*, as the settings say if they name it. The caller closes it.

    Raises:
        UsageError: the credentials file or the certificates cannot be read.
        InvalidName: it is no URL of a registry.
    """
    base = _base(url)
    registry = _named_or_default(settings, base)
    return _endpoints(registry, [base], stopped)[0]


def _named_or_default(settings: Settings, base: RemoteReference) -> SyncRegistry:
    """Return what the settings say of the registry whose first URL names the same host, or the defaults."""
    for registry in settings.sync.registries:
        if _base(registry.urls[0]).host == base.host:
            return registry
    return SyncRegistry(name=base.host, urls=(base.api_url,))


def _opened(said: SyncRegistry, stopped: threading.Event | None) -> Upstream:
    from regmeta.sources.registry.upstream import Upstream

    bases = [_base(url) for url in said.urls]
    return Upstream(_endpoints(said, bases, stopped), name=bases[0].host)


def _endpoints(
    said: SyncRegistry, bases: Sequence[RemoteReference], stopped: threading.Event | None
) -> list[Endpoint]:
    from regmeta.sources.registry.docker_config import DockerConfig, default_path
    from regmeta.sources.registry.terms import Terms
    from regmeta.sources.registry.transport import Endpoint

    terms = Terms(
        tls_verify=said.tls_verify,
        ca_file=said.ca_file or None,
        cert_dir=said.cert_dir or None,
        retries=said.retries,
        retry_delay_s=duration(said.retry_delay).total_seconds(),
        max_retry_delay_s=duration(said.max_retry_delay).total_seconds(),
        connect_timeout_s=duration(said.connect_timeout).total_seconds(),
        read_timeout_s=duration(said.read_timeout).total_seconds(),
        max_concurrent=said.max_concurrent,
        requests_per_s=said.requests_per_s,
        auth_hosts=frozenset(host.lower() for host in said.auth_hosts),
        redirect_hosts=frozenset(host.lower() for host in said.redirect_hosts),
    )
    if said.credentials_file:
        credentials = DockerConfig(said.credentials_file)
    else:
        credentials = DockerConfig(default_path(os.environ), must_exist=False)
    urls = [base.api_url for base in bases]
    return [Endpoint(url, terms=terms, credentials=credentials, stopped=stopped) for url in urls]


def _base(url: str) -> RemoteReference:
    """Return what a URL of the settings names, as if some repository of it was asked for."""
    base = url if "://" in url else f"https://{url}"
    return RemoteReference.parse(f"{base.rstrip('/')}/some/repository")


def _policy(said: SyncRegistry) -> Policy:
    poll = None if said.poll is None else duration(said.poll)
    longest = min(LONGEST_RETRY, poll or LONGEST_RETRY)
    return Policy(
        name=said.name,
        content=tuple(_rule(content) for content in said.content),
        platforms=said.platforms,
        only_signed=said.only_signed,
        referrers=said.referrers,
        cosign_tags=said.cosign_tags,
        convert=said.convert,
        upstream_deletes=said.upstream_deletes,
        poll=poll,
        on_demand=said.on_demand,
        check_interval=timedelta(0) if said.check_interval is None else duration(said.check_interval),
        image_timeout=duration(said.image_timeout),
        images_at_once=said.images_at_once,
        backoff=Backoff(min(FIRST_RETRY, longest), longest),
    )


def _rule(said: Content) -> ContentRule:
    return ContentRule(
        said.prefix,
        said.destination,
        said.strip_prefix,
        tuple(re.compile(text) for text in said.tags),
        tuple(re.compile(text) for text in said.exclude),
        said.semver,
        said.versions,
    )
