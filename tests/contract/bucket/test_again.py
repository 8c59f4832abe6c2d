"""Tests of what a registry does, once more with its store in a bucket.

Those are left out that look into the store's folder, or at layouts.
"""

from __future__ import annotations

__all__ = [name for name in globals() if name.startswith("test_")]
