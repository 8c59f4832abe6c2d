"""The OCI domain: digests, names, descriptors, manifests. Pure values: no I/O and no SQL.

==================  ==============================================================================
module              holds
==================  ==============================================================================
``digest``          :class:`~regmeta.oci.digest.Digest` and the streaming hasher
``names``           the grammar of repositories, tags and references
``strict_json``     a parser for JSON that may be hostile
``descriptor``      :class:`~regmeta.oci.descriptor.Descriptor` and its platform
``manifest``        bytes to :class:`~regmeta.oci.manifest.Manifest` or ``Index``
``image_config``    the few fields of an image configuration that are searched for
``media_types``     names of media types; they are data, never a list of what is allowed
``streams``         what bytes that are read once look like
``layout``          the files of an OCI image layout: ``oci-layout`` and ``index.json``
==================  ==============================================================================
"""
