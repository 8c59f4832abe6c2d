from __future__ import annotations

import pytest

from regmeta.errors import InvalidName
from regmeta.oci.digest import Digest
from regmeta.oci.remote_names import RemoteReference

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "api_url"),
    [
        ("quay.io/org/app:1.2", "quay.io", "org/app", "1.2", "https://quay.io"),
        ("quay.io/org/app", "quay.io", "org/app", None, "https://quay.io"),
        ("docker://quay.io/org/app", "quay.io", "org/app", None, "https://quay.io"),
        ("https://quay.io/org/app", "quay.io", "org/app", None, "https://quay.io"),
        ("http://quay.io/app", "quay.io", "app", None, "http://quay.io"),
        ("Quay.IO/app", "quay.io", "app", None, "https://quay.io"),
        ("localhost/app:v1", "localhost", "app", "v1", "https://localhost"),
        ("registry:5000/app:v1", "registry:5000", "app", "v1", "https://registry:5000"),
        ("http://registry/app", "registry", "app", None, "http://registry"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c", None, "https://127.0.0.1:5000"),
        ("http://[::1]:5000/app:v1", "[::1]:5000", "app", "v1", "http://[::1]:5000"),
        ("[2001:DB8::1]/app", "[2001:db8::1]", "app", None, "https://[2001:db8::1]"),
        ("docker.io/alpine", "docker.io", "library/alpine", None, "https://registry-1.docker.io"),
        ("docker.io/library/alpine:3", "docker.io", "library/alpine", "3", "https://registry-1.docker.io"),
        ("index.docker.io/org/app", "docker.io", "org/app", None, "https://registry-1.docker.io"),
        ("xn--bcher-kva.example/app", "xn--bcher-kva.example", "app", None, "https://xn--bcher-kva.example"),
    ],
)
def test_reference_is_taken_apart(
    text: str, host: str, repository: str, tag: str | None, api_url: str
) -> None:
    found = RemoteReference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == (host, repository, tag, None)
    assert found.api_url == api_url
    assert found.scheme == api_url.partition(":")[0]


@pytest.mark.parametrize("tag", ["", ":v1"])
def test_digest_is_kept_beside_the_tag(tag: str) -> None:
    found = RemoteReference.parse(f"quay.io/app{tag}@{DIGEST}")
    assert found.digest == Digest.parse(DIGEST)
    assert found.tag == (tag[1:] or None)
    assert str(found) == f"quay.io/app{tag}@{DIGEST}"


@pytest.mark.parametrize("text", ["docker.io/alpine", "http://[::1]:5000/a/b:v1", f"a.b/c:d@{DIGEST}"])
def test_what_is_shown_can_be_read_again(text: str) -> None:
    found = RemoteReference.parse(text)
    again = RemoteReference.parse(f"{found.scheme}://{found}")
    assert again == found


@pytest.mark.parametrize("text", ["alpine", "alpine:3.18", "org/app", "docker://alpine", "docker://org/app"])
def test_name_without_a_host_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidName, match=r"write for example docker\.io/library/"):
        RemoteReference.parse(text)


@pytest.mark.parametrize(
    "text",
    ["user:s3cret@quay.io/app", "https://user:s3cret@quay.io/app", "http://s3cret@[::1]:5000/app:v1"],
)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        RemoteReference.parse(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "//",
        "quay.io",
        "quay.io/",
        "https://quay.io",
        "https:///app",
        "https://",
        "ftp://quay.io/app",
        "HTTPS://quay.io/app",
        "http://http://quay.io/app",
        "quay.io/../app",
        "quay.io//app",
        "quay.io/app/",
        "quay.io/App",
        "quay.io/app:",
        "quay.io/app:..",
        "quay.io/app@",
        "quay.io/app@sha256:short",
        "quay.io/app@md5:d41d8cd98f00b204e9800998ecf8427e",
        f"quay.io/app@{DIGEST.upper()}",
        f"quay.io/app@{DIGEST}@{DIGEST}",
        "quay.io/app?x=y",
        "quay.io/app#x",
        "quay.io/app%2e",
        "quay.io\\x/app",
        "quay.io/app\n",
        "quay.io\n/app",
        "quay.io\x00/app",
        " quay.io/app",
        "quay.io /app",
        "quay..io/app",
        ".quay.io/app",
        "quay.io./app",
        "-quay.io/app",
        "quay-.io/app",
        "quay_x.io/app",
        "quay.io:/app",
        "quay.io:0/app",
        "quay.io:65536/app",
        "quay.io:99999999/app",
        "quay.io:+1/app",
        "quay.io:\u0665\u0660/app",
        "quay.io:1:2/app",
        "::1/app",
        "[::1/app",
        "[::1]x/app",
        "[::g]/app",
        "[1.2.3.4]/app",
        "[::1%25eth0]/app",
        "\u212aquay.io/app",  # the Kelvin sign, whose lower case is a k
        "qu\u0430y.io/app",  # a Cyrillic letter
        f"{'a' * 64}.io/app",
        f"{'a.' * 150}io/app",
        f"quay.io/{'a' * 256}",
        f"quay.io/app:{'a' * 129}",
        "quay.io/" + "a/" * 100_000,
        "." * 100_000,
    ],
)
def test_hostile_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        RemoteReference.parse(text)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()
