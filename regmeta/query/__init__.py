"""Reads: what admins, search and user interfaces ask. Frozen results, from one moment each; no writes.

=============  =======================================================================================
module         answers
=============  =======================================================================================
``catalog``    which repositories, tags and manifests there are, page by page; what a reference means
``tree``       an image as a tree: platforms, layers, sizes; the blobs that it is made of
``blobs``      one blob: where it is used, whether it is well
``status``     what is stored, what is under way, what is not flushed
``mirrored``   how mirroring gets on: last runs, what fails and is tried again
=============  =======================================================================================

A page is asked for by the last key of the one before: a list that others write to meanwhile repeats nothing
and leaves out nothing that stands. Names sort by their bytes (distribution-spec, "Listing Tags").
"""
