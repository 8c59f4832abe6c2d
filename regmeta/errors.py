"""The one tree of errors.

Every error that regmeta raises on purpose is an :class:`Error`. Its message names the digest,
the reference or the path it is about; its class carries the exit code that the command line ends
with. The ranges are documented in ``docs/exit-codes.md``:

==== ===========================================================================
code meaning
==== ===========================================================================
0    done
1    findings: the command worked and has something to report
2    usage: the command line or the settings are wrong
3    bad input: what was given is not a valid image, layout, name or digest
4    integrity: bytes do not match their digest or size
5    unavailable: disk, database or network did not do what was asked
6    refused: locked by another process, or not allowed by state or policy
==== ===========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

OK = 0
FINDINGS = 1


class Error(Exception):
    """An error that has a message for a person and an exit code for a script."""

    exit_code: ClassVar[int] = 5


def without_frames(error: Error) -> Error:
    """Return an error that is kept as an answer, without the frames that it was raised through.

    They hold what those worked on: a list of failed images would keep every one of them in memory.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


# --- 2: usage ---------------------------------------------------------------------------------


class UsageError(Error):
    """The command line, the environment or the settings file is wrong."""

    exit_code = 2


# --- 3: bad input -----------------------------------------------------------------------------


class InputError(Error):
    """Something that was given to regmeta is not valid."""

    exit_code = 3


class InvalidDigest(InputError):
    """A string is not a digest of the registered grammar, or of an algorithm kept here."""


class InvalidName(InputError):
    """A repository name, a tag or a reference is not of the grammar."""


class InvalidManifest(InputError):
    """Bytes that should be a manifest or an index are not one."""


class InvalidSource(InputError):
    """A layout, an archive or another source is not what it claims to be."""


class MissingContent(InputError):
    """A source refers to a blob or a manifest that it does not hold."""


class LintFailed(InputError):
    """An image breaks a configured rule, so nothing of it was taken in."""


class NotFound(InputError):
    """No such repository, tag, manifest or blob."""


class NothingWanted(InputError):
    """An index lists no child for any of the platforms that are wanted."""


# --- 4: integrity -----------------------------------------------------------------------------


class IntegrityError(Error):
    """Bytes do not have the digest or the size that they should have."""

    exit_code = 4


class DigestMismatch(IntegrityError):
    """The bytes hash to another digest than the one they were asked for by."""


class SizeMismatch(IntegrityError):
    """There are more or fewer bytes than the descriptor says."""


class DamagedBlob(IntegrityError):
    """A stored blob does not verify, or its object is gone."""


# --- 5: unavailable ---------------------------------------------------------------------------


class Unavailable(Error):
    """A disk, a database or a network did not do what was asked; nothing was acknowledged."""

    exit_code = 5


class StoreUnavailable(Unavailable):
    """The store could not be read or written."""


class RemoteUnavailable(Unavailable):
    """A remote registry could not be reached, did not answer in time, or answered with an error of its own.

    It says nothing of whether an image is there (I8). *retry_after_s* is how long it asked to be left alone.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DatabaseUnavailable(Unavailable):
    """The database could not be reached or did not answer."""


class NotPermitted(DatabaseUnavailable):
    """The database's role may not do this, or the server takes no writes: it is about no image and no row."""

    exit_code = 6


# --- 6: refused -------------------------------------------------------------------------------


class Refused(Error):
    """The state of the registry, a lock or a policy does not allow this."""

    exit_code = 6


class Locked(Refused):
    """Another process holds what is needed, and did not let go in time."""


class SchemaMismatch(Refused):
    """The database's schema is not the one that this release works with."""


class DatabaseMoved(Refused):
    """The rows of this database are being moved to another one, or were (``regmeta db copy``)."""


class IdentityMismatch(Refused):
    """This store and this database do not belong together."""


class RemoteRefused(Refused):
    """A remote registry does not let us in: no credentials, wrong ones, or not for this repository."""


class UnsafeRemote(Refused):
    """A remote registry sent us to a place that we do not go to: a redirect, a realm, a next page."""


class NotSigned(Refused):
    """An image has no signature, and only signed ones are wanted."""


class LeftOut(Refused):
    """An image is left out because another that it goes with was; *because* is what went wrong there."""

    def __init__(self, message: str, because: Error) -> None:
        super().__init__(message)
        self.because = because


class RepositoryNotActive(Refused):
    """The repository is being removed, so nothing can be written to it. *repository* is its name."""

    def __init__(self, message: str, *, repository: str | None = None) -> None:
        super().__init__(message)
        self.repository = repository


class ImmutableTag(Refused):
    """A tag that is there may not be moved or removed; a rule or a lock says so.

    *refused* are all such tags of one repository, each with what makes it immutable.
    """

    def __init__(self, repository: str, refused: Mapping[str, str]) -> None:
        tag, rule = next(iter(sorted(refused.items())))
        others = f"; so are {len(refused) - 1} more" if len(refused) > 1 else ""
        super().__init__(f"{repository}:{tag}: the tag is immutable by {rule}{others}")
        self.repository = repository
        self.refused = refused


# --- no exit code of their own: they never leave ``ingest`` ------------------------------------


class LostReservation(Error):
    """Keys reserved by this ingest were taken back, or blobs it relied on have gone meanwhile.

    The ingest goes back to ``reserve`` for those digests only, with new keys (design, section 3).
    """

    def __init__(self, digests: frozenset[Any]) -> None:
        super().__init__("reservation lost for " + ", ".join(sorted(map(str, digests))))
        self.digests = digests


class Contention(Locked):
    """The database gave this transaction up for another one; trying again is safe."""


class ConnectionLost(DatabaseUnavailable):
    """The connection broke; whether a commit that was under way took effect is not known."""


class ConstraintViolated(Error):
    """A constraint refused a row: a race that the transaction should be repeated for, or a bug."""
