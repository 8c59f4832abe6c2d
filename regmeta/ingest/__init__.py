"""Bringing images in: the only code that writes blobs, manifests, edges and new tag intervals.

=======================  =======================================================================
module                   does
=======================  =======================================================================
``local_registry``       the door: may an image be skipped, commit an image, import many
``read_image``           a source's tree of manifests, checked, as a plan; nothing is written
``lint``                 rules that an image must keep before it is taken in
``import_run``           one import: images are skipped, planned and filled into batches
``groups``               images that go in together or not at all, as a batch
``batch``                one batch through all phases; what is bad is left out
``copying``              the blobs of a batch, from their sources, in several threads
``claims``               one download per digest of the batches that run at once in this process
``elsewhere``            waiting for large blobs that other processes are receiving
``local_first``          a remote source that is not asked for what is here
``known``                what thousands of tags are here: the question before a sync
``known_referrers``      what refers to thousands of manifests here
``unit_of_work``         the phases: reserve, stage, publish, commit, finish, abort
``reserve``              rows of the phases before the commit: intents and leases
``commit``               the one transaction: blobs, manifests, edges, tags, events, outbox
``searchable``           what search looks through, kept in step
``inserting``            INSERTs that know of rows with their key
``pulls``                counting pulls, in batches beside all else
``favorites``            stars and bookmarks
``tags``                 moving and removing a tag of what is here already
``snapshots``            after the commit: the store's own copy of who is tagged what
=======================  =======================================================================
"""
