"""Buckets on the one S3 server of a test run: each test has a prefix of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

from tests.support.bucket_files import BucketFiles
from tests.support.seaweed_server import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.support.shared_server import shared_server


class Buckets:
    """What reaches the server is in the environment, as it is for the program's users."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def url(self) -> str:
        """Return the URL of a store that nobody has used."""
        return f"s3://{BUCKET}/t-{uuid4().hex}"


def reaching(endpoint: str) -> dict[str, str]:
    """Return the environment in which programs find a server."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def shared_buckets(folder: Path) -> Iterator[Buckets]:
    """Use the server of *folder*, which all processes of a test run name; the first one starts it."""
    script = Path(__file__).with_name("seaweed_server.py")
    with shared_server(folder, script) as found, patch.dict(os.environ, reaching(found["endpoint"])):
        # The bucket is made with the first object.
        BucketFiles(f"s3://{BUCKET}").write("t", b"")
        yield Buckets(found["endpoint"])
