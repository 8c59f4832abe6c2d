"""Reads: what admins, search and user interfaces ask. Frozen results, from one moment each; no writes.

=============  =======================================================================================
module         answers
=============  =======================================================================================
``catalog``    one repository, one tag; what a reference means
``lists``      repositories, tags, manifests and blobs: filtered, sorted, page by page
``images``     images as people look at them: summaries, the newest, layers, two compared
``tree``       an image as a tree: platforms, layers, sizes; the blobs that it is made of
``graph``      referrers, signatures, bases and derived images, members of indexes, digests by prefix, sharing
``search``     the search box
``statistics`` pulls, stars and bookmarks, room
``feed``       every committed change, in order
``history``    what tags were
``deleted``    what can be brought back
``blobs``      one blob: where it is used, whether it is well
``sql``        a statement of a person, read-only
``status``     what is stored, what is under way, what is not flushed
``mirrored``   how mirroring gets on: last runs, what fails and is tried again
=============  =======================================================================================

Who may see what is a condition in each statement (``visibility``). A page is asked for by a cursor, the keys
of the last row of the one before (``cursors``): a list that others write to meanwhile repeats nothing and
leaves out nothing that stands. Names sort by their bytes (distribution-spec, "Listing Tags").
"""
