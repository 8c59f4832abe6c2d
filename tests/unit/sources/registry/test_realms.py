"""Which realms get credentials, as a table."""

from __future__ import annotations

import pytest

from regmeta.errors import UnsafeRemote
from regmeta.sources.registry.addresses import Reach
from regmeta.sources.registry.places import parse_url
from regmeta.sources.registry.realms import check_realm

HUB = "https://registry-1.docker.io"


@pytest.mark.parametrize(
    ("registry", "realm", "with_credentials", "anonymously"),
    [
        ("https://a", "https://a/token", Reach.OWN, Reach.OWN),
        ("https://a:5000", "https://a:5001/token", Reach.OWN, Reach.OWN),
        ("http://a:5000", "http://a:5001/token", Reach.OWN, Reach.OWN),
        ("http://a:5000", "https://a/token", Reach.OWN, Reach.OWN),
        ("https://a", "http://a/token", None, None),
        ("https://a", "https://b.a/token", None, Reach.PUBLIC),
        ("https://a", "https://a.b/token", None, Reach.PUBLIC),
        ("http://a", "http://b/token", None, None),
        ("http://a", "https://b/token", None, Reach.PUBLIC),
        ("https://a", "https://listed/token", Reach.LISTED, Reach.LISTED),
        ("https://a", "http://listed/token", None, None),
        ("http://a", "http://listed/token", Reach.LISTED, Reach.LISTED),
        ("https://a", "https://port:8443/token", Reach.LISTED, Reach.LISTED),
        ("https://a", "https://port/token", None, Reach.PUBLIC),
        (HUB, "https://auth.docker.io/token", Reach.NAMED, Reach.NAMED),
        (HUB, "https://auth.docker.io:444/token", None, Reach.PUBLIC),
        (HUB, "https://auth.docker.io.evil/token", None, Reach.PUBLIC),
        (HUB, "https://gitlab.com/jwt/auth", None, Reach.PUBLIC),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", Reach.NAMED, Reach.NAMED),
        ("https://a", "https://gitlab.com/jwt/auth", None, Reach.PUBLIC),
    ],
)
def test_realm_is_judged(
    registry: str, realm: str, with_credentials: Reach | None, anonymously: Reach | None
) -> None:
    listed = frozenset({"listed", "port:8443"})
    place, _ = parse_url(registry)
    for has_credentials, expected in ((True, with_credentials), (False, anonymously)):
        if expected is None:
            with pytest.raises(UnsafeRemote):
                check_realm(realm, place, auth_hosts=listed, has_credentials=has_credentials)
        else:
            found = check_realm(realm, place, auth_hosts=listed, has_credentials=has_credentials)
            assert found == (*parse_url(realm), expected)
