"""Images as people look at them: what one is, what a repository's newest is, and how two differ.

===============  =====================================================================================
module           answers
===============  =====================================================================================
``summary``      all that there is to say of an image or an index, of one or of a whole page of them
``newest``       which image of a repository is the newest, and a repository at a glance
``layers``       the layers of one image, in their order
``choose``       which image of an index is meant by a platform
``diff``         what two images have in common, and what not
===============  =====================================================================================

How big an image is counts each blob once, however often its manifests name it. Three times are never mixed
up: when an image says it was *created*, when it was *pushed* here, and when it was *tagged* last. A fourth,
when it was pulled last, is None for one that never was.
"""
