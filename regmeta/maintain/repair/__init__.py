"""Putting right what verification found. Nothing is deleted: a bad object is quarantined by its row's state.

=====================  ===============================================================================
finding                what is done
=====================  ===============================================================================
object-*, blob-damaged the row becomes *damaged*; a good copy (another object, the manifest's row, a
                       given source) goes to a new key and heals it
manifest-*, edge-*,    rows are derived again from the manifest's bytes, under the repository's lock
link-missing
tag-drift              points at the manifest that it says, or goes back in its history
deleted-in-use         comes back, with all that it lists
repository-state       comes back, unless its purge has begun
object-unknown         a tombstone, as the sweep makes it
intent-stale           ``recover``
tombstone-stuck        deleted again
task-missing           queued
snapshot-drift         written again; one that is newer than the rows is left for ``rebuild``
layout-drift           written again
others                 left, with advice
=====================  ===============================================================================

Each action is a transaction of its own and decides from rows that it reads inside it, so a repair runs beside
writers, may be interrupted, and finds nothing to do when it is run again.
"""
