"""Collection: rows first, objects later, beside any number of writers and of other collectors.

===============  =====================================================  ===============================
step             durable effect                                         a crash right after leaves
===============  =====================================================  ===============================
``purge``        many transactions: a repository that was deleted is    a repository that takes no
                 emptied in pieces                                      push; the next run goes on
``manifests``    one transaction under the repository's lock: dead      objects with a tombstone, and a
                 manifests, their edges, links and blobs are gone;      snapshot that is behind
                 tombstones, tasks for what they referred to, events,
                 outbox
``blobs``        the same for blobs that no manifest names              objects with a tombstone
delete objects   the objects of due tombstones are gone; then a         tombstones without objects
                 transaction says so
drop             much later: deleted once more, the tombstone dropped   --
``sweep``        tombstones for objects that no row knows               objects with a tombstone
``reconcile``    tasks for garbage that no task is about                some of the tasks
after a failure  in a transaction of its own: when it is tried again,   nothing: the next run finds it
                 or until when nobody asks the store                    out again
===============  =====================================================  ===============================

What a crash leaves is done by the next run.

The cost follows the garbage: work comes from ``gc_tasks``, which are written in the transactions that make
garbage possible. A task is only a hint: what is deleted is decided inside the deleting transaction, from
rows that it reads after it has the lock.

Reachable is what a live tag names, or one that ended inside the history window; what an index lists; what
refers to a manifest that is here; what a manifest holds; and whatever is leased. A parent is not kept by its
child.
"""
