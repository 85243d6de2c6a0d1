"""New databases of these tests take no space ahead."""

from support.stores import unreserved

__all__ = ["unreserved"]
