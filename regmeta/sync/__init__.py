"""Mirroring: which images of other registries are wanted here, under which names, and how that went.

==================  ============================================================================
module              does
==================  ============================================================================
``policy``          what the settings ask for of one registry, as values
``selection``       which repositories and tags are wanted
``mapping``         where a repository of the upstream goes here, and back
``platforms``       which images of an index are wanted
``listing``         the upstream's repositories and tags, and what the rows know of them
``look``            one image: is it here, and if not, what is to be brought
``companions``      what belongs to an image: referrers, signature tags
``converted``       an image after the conversion of Docker's types
``unread``          an image that is asked for only if something of it is needed
``watched``         a source that is stopped with the sync, or when it takes too long
``leased``          an image that is here without a tag, kept for another while
``pipeline``        many images: looks and commits beside each other, within bounds
``run``             one run of a policy, or of one image
``outcomes``        what a run has done so far
``removals``        what the upstream has no more
``on_demand``       an image at the moment when somebody asks for it
``records``         each run, and the last outcome of each image: the only SQL of the package
==================  ============================================================================
"""
