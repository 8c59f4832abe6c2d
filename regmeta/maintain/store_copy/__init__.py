"""All objects into another store, which then is the registry's; writers go on until just before the end.

``target``     what the new store says of itself while it is being filled, and both when it is
``compare``    which live rows have no object in the new store
``objects``    bytes from one store to the other, hashed on the way
``snapshots``  the same for snapshots
``fence``      the end of the move, in the rows
``run``        the whole of it

Keys stay as they are, so no row changes but that of ``store_identity``.

============  =======================================  ==================================  ==============
step          durable effect                           a crash right after leaves          repaired by
============  =======================================  ==================================  ==============
begin         the new store's record: of this          a store that nobody can open        a second run
              registry, "filled from" the old one
objects       each at its key, in no order             some of them; what is there is      a second run
                                                       not copied again
snapshots     the newest of each repository            some of them                        a second run
**fence**     one transaction: tombstones in place of  the old store; new objects are      the next
              all intents, and a hold that names the   refused until the mark is lifted    writer, a second
              move: no key of a writer's own gets                                          run, --abandon
              into rows any more
last pass     what was committed since, and a listing  the same                            the same
              that shows every live row's object
**switch**    one transaction: the rows are of the     the new store, for everything; the  a second run
              new store, the hold has gone, and what   old one opens for nobody            writes records
              is behind there is in ``layout_outbox``
close         the old store's record says where to     the same                            the same
complete      the new store's record no longer says    the same                            --
              "filled from"
============  =======================================  ==================================  ==============

The row of ``store_identity`` alone decides which store opens, so it is exactly one at every moment. Nothing
is deleted in the old store.

Who stood still over the switch: a writer whose key is in the old store only finds its intent gone, or the
condition in the statement that would take it (``ingest.store_moves``); a snapshot written there clears no row
of the outbox; a collector that deletes there notes a tombstone as done whose object is in the new store,
where it is deleted once more before the tombstone is dropped; a verification marks nothing.
"""
