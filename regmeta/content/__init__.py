"""Rows and bytes together, for reading: nothing here changes either.

``streams``  the bytes of a blob, verified while they are read
``configs``  configurations of images: how one runs, how it was made, how two differ
``export``   images as an OCI layout, in a directory or an archive
"""
