"""The rows again from the store: all of them when the database is lost, what is missing when it is not.

==============  ==================================================================================
module          holds
==============  ==================================================================================
``report``      what a rebuild did, and what it could not do
``listing``     what the store lists: objects by digest, snapshots by repository
``snapshot``    one snapshot, read and checked
``objects``     which object stands for a digest, and its verified bytes
``trees``       manifests read again, as plans that ``ingest.commit`` takes
``identity``    whose database it is before, while and after
``lost``        the rows of a lost database, from nothing
``reconcile``   beside writers: only what the rows lack
==============  ==================================================================================

No step reads an error, or an empty listing, as "there is nothing" (design, I8). The steps, and what a crash
after each leaves, are in ``docs/internals/rebuild.md``.
"""
