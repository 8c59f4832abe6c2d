"""Object storage: S3 and what speaks it, Google's and Azure's; what the store and the sources both need.

``reach``    how a bucket is reached, as plain values: nothing is imported for it
``objects``  a bucket that is read
"""
