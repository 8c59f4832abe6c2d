"""Looking for everything that can be wrong, beside writers, without changing anything.

===============  ==========================================================================================
module           what it compares
===============  ==========================================================================================
``rows``         the database with itself: its own check, foreign keys, values that regmeta never writes
``objects``      live blobs with objects, objects with rows, sizes
``manifests``    columns, edges, labels and links with the manifest's bytes, parsed again (``expected``)
``tags``         tags with manifests, and the intervals of a tag with each other
``machinery``    intents, tombstones, and garbage with the collector's queue
``snapshots``    the store's copies of tags, and layouts, with the rows
``data``         every byte with its digest, in parallel, from where an interruption left it
===============  ==========================================================================================

Each looks a second time before it reports what a writer or a collector at work could explain. An error is
never an answer (I8).
"""
