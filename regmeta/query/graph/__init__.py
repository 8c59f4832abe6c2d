"""How content hangs together: what refers to it, what it is made of, and what is made of it.

===============  =====================================================================================
module           answers
===============  =====================================================================================
``signatures``   whether an image is signed, and by what
``referrers``    what names a manifest as its subject: one page, or a tree
``lineage``      which images an image is built on, are built on it, or have the very same layers
``members``      what an index lists, and which indexes list a manifest
``prefixes``     what has a digest that begins so
``sharing``      how much room it saves that a blob is stored once
===============  =====================================================================================

Who uses a blob is in :mod:`regmeta.query.blobs`.
"""
