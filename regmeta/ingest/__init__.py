"""Bringing images in: the only code that writes blobs, manifests, edges and new tag intervals.

=======================  =======================================================================
module                   does
=======================  =======================================================================
``local_registry``       the door: may an image be skipped, commit an image, import many
``read_image``           a source's tree of manifests, checked, as a plan; nothing is written
``lint``                 rules that an image must keep before it is taken in
``unit_of_work``         the phases: reserve, stage, publish, commit, finish, abort
``reserve``              rows of the phases before the commit: intents and leases
``commit``               the one transaction: blobs, manifests, edges, tags, events, outbox
``tags``                 moving and removing a tag of what is here already
``snapshots``            after the commit: the store's own copy of who is tagged what
=======================  =======================================================================
"""
