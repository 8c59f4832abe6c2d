"""The OCI domain: digests, names, descriptors, manifests. Pure values: no I/O and no SQL.

==================  ==============================================================================
module              holds
==================  ==============================================================================
``digest``          :class:`~regmeta.oci.digest.Digest` and the streaming hasher
``names``           the grammar of repositories, tags and references
``strict_json``     a parser for JSON that may be hostile
``descriptor``      :class:`~regmeta.oci.descriptor.Descriptor` and its platform
``manifest``        bytes to :class:`~regmeta.oci.manifest.Manifest` or ``Index``
``image_config``    an image configuration: what is searched for, its history, how the image runs
``annotations``     what an image says of itself, and which of several places decides
``media_types``     names of media types; they are data, never a list of what is allowed
``signatures``      what signs an image, and the tags that cosign gives to companions of images
``streams``         what bytes that are read once look like
``layout``          the files of an OCI image layout: ``oci-layout`` and ``index.json``
==================  ==============================================================================
"""
